"""Loads values: defaults < file < environment < flags (spec section 8).

An unknown key or a bad value is refused before anything starts. The error names
source, key, value and what was expected; all mistakes are reported at once.
The value of a secret is never shown, nor a password inside an address.

Names in the environment are those of the protocol document (`ALIASES`) and
``TYPELETS_WS_<SECTION>_<KEY>`` for every key. Lists are separated by commas.
Either name with ``_FILE`` behind it is the path of a file that holds the value, so
that a secret can stay out of the environment. With systemd::

    LoadCredential=clerk-key:/etc/typelets-ws/clerk.pem
    Environment=CLERK_JWT_KEY_FILE=%d/clerk-key

A key that is set by two names is refused: neither has precedence.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from .. import fastpaths
from ..telemetry.redact import scrub
from .model import Config, ConfigError, secret_keys
from .types import expected, key_types, parse_text
from .validate import errors, require_keys

__all__ = ["ALIASES", "Key", "Setting", "describe", "key_of", "load", "parse"]

Key = tuple[str, str]
"""(section, key)."""

ALIASES: Mapping[str, Key] = {
    "WS_RATE_LIMIT_WINDOW_MS": ("limits", "rate_window_ms"),
    "WS_RATE_LIMIT_MAX_MESSAGES": ("limits", "rate_messages"),
    "WS_MAX_CONNECTIONS_PER_USER": ("limits", "devices_per_user"),
    "WS_AUTH_TIMEOUT_MS": ("auth", "auth_timeout_ms"),
    "CLERK_SECRET_KEY": ("auth", "secret_key"),
    "CLERK_JWT_KEY": ("auth", "jwt_key"),
    "CORS_ORIGINS": ("server", "allowed_origins"),
    "DATABASE_URL": ("database", "url"),
    "REDIS_URL": ("redis", "url"),
}
_PREFIX = "TYPELETS_WS_"
_FILE = "_FILE"


class Setting(NamedTuple):
    """One line of the effective configuration; secrets are masked."""

    name: str
    shown: str
    is_default: bool


class _Value(NamedTuple):
    place: Key
    value: object
    where: str
    is_text: bool = False
    """True for a value that is text and must be parsed as its type says."""


class _InvalidError(Exception):
    """One mistake as a line of text."""


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[Key, object] | None = None,
    *,
    serving: bool = False,
) -> Config:
    """Merge defaults, file, environment and flags into one checked `Config`.

    `serving` also requires keys to verify tokens with; only the daemon needs them.

    `flags` maps (section, key) to a value; text is read as in the environment, and
    None means that the flag was not given. Raises `ConfigError`, one mistake a line.
    """
    text = ""
    if path is not None:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: cannot be read: {_why(exc)}") from None
    source = str(path or "defaults")
    return parse(text, source, environ, flags or {}, serving=serving)


def parse(
    text: str,
    source: str,
    environ: Mapping[str, str],
    flags: Mapping[Key, object],
    *,
    serving: bool = False,
) -> Config:
    """Like `load`, with the file's text given; `source` names it in errors."""
    tables = _tables(text, source)
    wrong: list[str] = []
    bad: set[Key] = set()
    given: dict[Key, _Value] = {}
    sections: dict[str, dict[str, Any]] = {}
    for found in (
        *_from_file(tables, source),
        *_from_environment(environ),
        *_from_flags(flags),
    ):
        if isinstance(found, _InvalidError):
            wrong.append(str(found))
        else:
            given[found.place] = found
    for each in given.values():
        section, key = each.place
        try:
            sections.setdefault(section, {})[key] = _converted(each)
        except _InvalidError as mistake:
            bad.add(each.place)
            wrong.append(str(mistake))
    config = msgspec.convert(sections, Config)
    wrong += _broken_rules(config, source, given, bad)
    if serving and not any(section == "auth" for section, _ in bad):
        try:
            require_keys(config)
        except ConfigError as exc:
            wrong.append(str(exc))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config


def _tables(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        why = "nested too deep" if isinstance(exc, RecursionError) else exc
        raise ConfigError(f"{source}: not valid TOML: {why}") from None


def _broken_rules(
    config: Config, source: str, given: Mapping[Key, _Value], bad: set[Key]
) -> Iterator[str]:
    """The rules that the good values break, each as a line.

    In place of the `bad` ones `config` has defaults, so rules about those are left out.
    """
    for section, key, wanted in errors(config):
        place = section, key
        if place in bad or any(f"({name})" in wanted for _, name in bad):
            continue
        value = getattr(getattr(config, section), key)
        unset = _Value(place, value, f"{source}: [{section}] {key}")
        yield str(_refusal(given.get(place, unset), wanted))


def describe(config: Config) -> list[Setting]:
    """Every key with its effective value, secrets and passwords masked."""
    usual = dict(_values(Config()))
    return [
        Setting(".".join(place), _shown(place, value), value == usual[place])
        for place, value in _values(config)
    ]


def _values(config: Config) -> Iterator[tuple[Key, object]]:
    for section, key in key_types():
        yield (section, key), getattr(getattr(config, section), key)


def _from_file(
    tables: Mapping[str, object], source: str
) -> Iterator[_Value | _InvalidError]:
    sections = [field.name for field in structs.fields(Config)]
    for section, keys in tables.items():
        if section not in sections:
            hint = _nearest(section, sections)
            yield _InvalidError(f"{source}: [{section}]: unknown section; {hint}")
        elif not isinstance(keys, dict):
            yield _InvalidError(f"{source}: {section}: expected a section, [{section}]")
        else:
            for key, value in keys.items():
                where = f"{source}: [{section}] {key}"
                yield _known(_Value((section, key), value, where))


def _from_flags(flags: Mapping[Key, object]) -> Iterator[_Value | _InvalidError]:
    for place, value in flags.items():
        if value is not None:
            where = f"command line: [{place[0]}] {place[1]}"
            yield _known(_Value(place, value, where, isinstance(value, str)))


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Value | _InvalidError]:
    first: dict[Key, str] = {}
    for name, value in environ.items():
        plain = name.removesuffix(_FILE)
        place = key_of(name)
        if place is None:
            continue
        if place in first:
            yield _InvalidError(
                f"{first[place]} and {name} are both set; keep one of them"
            )
            continue
        first[place] = name
        try:
            text = value if name == plain else _content(name, value)
        except _InvalidError as mistake:
            yield mistake
        else:
            yield _known(_Value(place, text, name, is_text=True))


def key_of(name: str) -> Key | None:
    """(section, key) that an environment name sets, also with `_FILE` behind it."""
    plain = name.removesuffix(_FILE)
    if plain in ALIASES:
        return ALIASES[plain]
    if not name.startswith(_PREFIX) or name == fastpaths.VARIABLE:
        return None
    section, _, key = plain.removeprefix(_PREFIX).lower().partition("_")
    return section, key


def _content(name: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as exc:
        raise _InvalidError(f"{name} = {path!r}: cannot be read: {_why(exc)}") from None


def _known(given: _Value) -> _Value | _InvalidError:
    section, key = given.place
    known = key_types()
    if given.place in known:
        return given
    keys = [name for where, name in known if where == section]
    if not keys:
        hint = _nearest(section, [field.name for field in structs.fields(Config)])
        return _InvalidError(f"{given.where}: unknown section {section!r}; {hint}")
    return _InvalidError(f"{given.where}: unknown key; {_nearest(key, keys)}")


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}expected one of {', '.join(known)}"


def _converted(given: _Value) -> object:
    kind, value = key_types()[given.place], given.value
    if given.is_text:
        value = parse_text(kind, str(value))
    if given.place == ("auth", "jwt_key") and isinstance(value, str):
        # Files of environment variables hold a PEM on one line, with written-out \n.
        value = value.replace("\\n", "\n")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise _refusal(given, expected(kind)) from None


def _refusal(given: _Value, wanted: str) -> _InvalidError:
    shown = _shown(given.place, given.value)
    return _InvalidError(f"{given.where} = {shown}: expected {wanted}")


def _shown(place: Key, value: object) -> str:
    if place in secret_keys():
        return "(secret)" if value else "(empty)"
    return scrub(repr(value))


def _why(exc: Exception) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or str(exc)
