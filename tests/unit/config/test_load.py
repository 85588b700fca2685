"""Where values come from, and what refusals say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import CHARACTERS
from typelets_ws.config.load import ALIASES, Key, describe, load, parse
from typelets_ws.config.model import Config, ConfigError
from typelets_ws.config.types import key_types

FILE = "/etc/t.toml"


def config(
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[Key, object] | None = None,
) -> Config:
    return parse(text, FILE, environ or {}, flags or {})


def refusal(
    text: str = "",
    environ: dict[str, str] | None = None,
    flags: dict[Key, object] | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text, environ, flags)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load(None, {}) == Config()


def test_each_source_beats_the_one_before() -> None:
    text = "[limits]\nrate_messages = 1\ndevices_per_user = 1\nconnections = 1"
    environ = {
        "WS_RATE_LIMIT_MAX_MESSAGES": "2",
        "TYPELETS_WS_LIMITS_DEVICES_PER_USER": "2",
    }
    found = config(text, environ, {("limits", "rate_messages"): 3})
    assert found.limits.rate_messages == 3
    assert found.limits.devices_per_user == 2
    assert found.limits.connections == 1
    assert found.limits.per_address == Config().limits.per_address


def test_mistake_without_a_file_names_the_default() -> None:
    with pytest.raises(ConfigError, match=r"^defaults: \[database\] pool_min = 2"):
        load(None, {"TYPELETS_WS_DATABASE_POOL_MAX": "1"})


def test_load_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("[log]\nlevel = 'debug'\n")
    assert load(path, {}).log.level == "debug"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "t.toml"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(path, {})
    assert str(path) in str(caught.value)


def test_each_alias_reaches_its_key() -> None:
    values = {
        "WS_RATE_LIMIT_WINDOW_MS": "7",
        "WS_RATE_LIMIT_MAX_MESSAGES": "8",
        "WS_MAX_CONNECTIONS_PER_USER": "9",
        "WS_AUTH_TIMEOUT_MS": "10",
        "CLERK_SECRET_KEY": "sk_test_x",
        "CORS_ORIGINS": "https://a.example",
        "DATABASE_URL": "postgres://a",
        "REDIS_URL": "redis://a",
    }
    # CLERK_JWT_KEY takes none but a real key: tests/unit/config/test_model.py.
    assert {*values, "CLERK_JWT_KEY"} == set(ALIASES)
    changed = {
        each.name for each in describe(config("", values)) if not each.is_default
    }
    assert changed == {".".join(ALIASES[name]) for name in values}


def test_every_key_has_a_name_in_the_environment() -> None:
    for section, key in key_types():
        shown = getattr(getattr(Config(), section), key)
        text = ",".join(shown) if isinstance(shown, tuple) else str(shown)
        name = f"TYPELETS_WS_{section}_{key}".upper()
        assert config("", {name: text}) == Config()


def test_text_in_the_environment_is_read_by_type() -> None:
    found = config(
        "",
        {
            "CORS_ORIGINS": " https://a.example , https://b.example:8443,",
            "TYPELETS_WS_SERVER_REUSE_PORT": "Yes",
            "TYPELETS_WS_ADMIN_ENABLED": "off",
            "TYPELETS_WS_LIMITS_STALLED_S": "1.5",
            "TYPELETS_WS_LIMITS_ABORT_S": "3",
        },
    )
    assert found.server.allowed_origins == (
        "https://a.example",
        "https://b.example:8443",
    )
    assert found.server.reuse_port
    assert not found.admin.enabled
    assert (found.limits.stalled_s, found.limits.abort_s) == (1.5, 3.0)


def test_empty_origins_in_the_environment_are_none_and_beat_the_file() -> None:
    text = '[server]\nallowed_origins = ["https://a.example"]'
    assert config(text, {"CORS_ORIGINS": ""}).server.allowed_origins == ()


@pytest.mark.parametrize(
    "text", ["", " ", "abc", "1.5", "0", "-1", "1_000", "٣", "9" * 40]
)
def test_bad_number_in_the_environment_is_refused(text: str) -> None:
    assert refusal("", {"WS_RATE_LIMIT_MAX_MESSAGES": text}) == (
        f"WS_RATE_LIMIT_MAX_MESSAGES = {text!r}: "
        "expected a whole number of at least 1 (at most 2147483647)"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[limits]\nconnections = true", "a whole number of at least 1"),
        ("[limits]\nconnections = 1.0", "a whole number of at least 1"),
        ("[limits]\nconnections = '5'", "a whole number of at least 1"),
        (f"[limits]\nconnections = {10**30}", "(at most 2147483647)"),
        ("[server]\nport = 65536", "at least 0 (at most 65535)"),
        ("[limits]\nstalled_s = 0", "a number above 0 (at most 1000000)"),
        ("[limits]\nstalled_s = inf", "a number above 0"),
        ("[limits]\nstalled_s = nan", "a number above 0"),
        ("[auth]\nleeway_s = -1", "a number of at least 0"),
        ("[log]\nlevel = 'loud'", "one of debug, info, warning, error"),
        ("[server]\nreuse_port = 1", "true or false"),
        ("[server]\nhost = ''", "a text that is not empty"),
        ("[server]\nstatus_token = 5", "a text"),
        ("[server]\nallowed_origins = 'https://a'", "a list of texts"),
        ("[auth]\nauthorized_parties = ['']", "a list of texts, none of them empty"),
    ],
)
def test_bad_value_in_the_file_is_refused(line: str, expected: str) -> None:
    said = refusal(line)
    key = line.split("\n")[1].split(" ", maxsplit=1)[0]
    assert said.startswith(f"{FILE}: [")
    assert f"] {key} = " in said
    assert expected in said


def test_bad_flag_is_refused() -> None:
    assert refusal("", {}, {("server", "port"): "http"}).startswith(
        "command line: [server] port = 'http': expected a whole number"
    )


def test_flag_that_was_not_given_changes_nothing() -> None:
    assert config("", {}, {("server", "port"): None}) == Config()


def test_flag_of_the_right_type_is_taken() -> None:
    flags: dict[Key, object] = {
        ("server", "port"): 1,
        ("log", "level"): "error",
        ("server", "allowed_origins"): ("https://a.example",),
    }
    found = config("", {}, flags)
    assert (found.server.port, found.log.level) == (1, "error")
    assert found.server.allowed_origins == ("https://a.example",)


def test_unknown_key_suggests_the_nearest_and_lists_the_section() -> None:
    said = refusal("[log]\nlevle = 'info'")
    assert said == (
        f"{FILE}: [log] levle: unknown key; did you mean level? "
        "expected one of level, format, burst"
    )
    assert "did you mean" not in refusal("[log]\nzzz = 1")


def test_unknown_section_suggests_the_nearest() -> None:
    assert "[limit]: unknown section; did you mean limits?" in refusal("[limit]\na = 1")
    assert "unknown section 'limit'" in refusal("", {"TYPELETS_WS_LIMIT_RATE": "1"})
    assert "expected a section, [log]" in refusal("log = 'info'")


def test_toml_mistake_is_reported_with_its_place() -> None:
    assert refusal("[log").startswith(f"{FILE}: not valid TOML: ")


def test_all_mistakes_are_reported_at_once() -> None:
    said = refusal("[log]\nlevel = 1\nburst = 0\nx = 1", {"WS_AUTH_TIMEOUT_MS": "soon"})
    assert len(said.splitlines()) == 4


def test_rules_between_keys_name_the_source_of_the_value() -> None:
    assert refusal("[database]\npool_max = 1") == (
        f"{FILE}: [database] pool_min = 2: expected at most 1 (pool_max)"
    )
    assert refusal("", {"TYPELETS_WS_DATABASE_POOL_MIN": "9"}).startswith(
        "TYPELETS_WS_DATABASE_POOL_MIN = '9': expected at most 8"
    )


def test_two_names_for_one_key_are_refused() -> None:
    both = {"REDIS_URL": "redis://a", "TYPELETS_WS_REDIS_URL": "redis://b"}
    assert refusal("", both) == (
        "REDIS_URL and TYPELETS_WS_REDIS_URL are both set; keep one of them"
    )


@pytest.mark.parametrize(
    "name", ["CLERK_SECRET_KEY_FILE", "TYPELETS_WS_AUTH_SECRET_KEY_FILE"]
)
def test_value_may_stand_in_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "key"
    path.write_text("sk_test_1\n")
    assert config("", {name: str(path)}).auth.secret_key == "sk_test_1"


def test_named_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    assert refusal("", {"DATABASE_URL_FILE": path}) == (
        f"DATABASE_URL_FILE = {path!r}: cannot be read: No such file or directory"
    )
    assert "cannot be read" in refusal("", {"DATABASE_URL_FILE": "a\0b"})


def test_name_and_its_file_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("redis://a")
    environ = {"REDIS_URL": "redis://b", "REDIS_URL_FILE": str(path)}
    assert "both set" in refusal("", environ)


def test_other_variables_are_none_of_the_daemon() -> None:
    assert config("", {"PATH": "/bin", "TYPELETS": "1", "HOME_FILE": "x"}) == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://user:hunter2@h"),
        ("DATABASE_URL", "mysql://user:hunter2@h"),
        ("CLERK_JWT_KEY", "hunter2"),
        ("TYPELETS_WS_AUTH_JWKS_URL", "ftp://user:hunter2@h"),
    ],
)
def test_secret_is_not_shown_in_a_refusal(name: str, value: str) -> None:
    said = refusal("", {name: value})
    assert name in said
    assert "hunter2" not in said


def test_secret_in_a_wrong_type_is_not_shown() -> None:
    assert "hunter2" not in refusal("[auth]\nsecret_key = ['hunter2']")


def test_describe_lists_every_key_and_masks_secrets() -> None:
    found = describe(
        config("[log]\nlevel = 'debug'", {"REDIS_URL": "redis://:hunter2@h"})
    )
    by_name = {setting.name: setting for setting in found}
    assert set(by_name) == {f"{section}.{key}" for section, key in key_types()}
    assert by_name["log.level"].shown == "'debug'"
    assert not by_name["log.level"].is_default
    assert by_name["log.format"].is_default
    assert by_name["redis.url"].shown == "(secret)"
    assert by_name["auth.jwt_key"].shown == "(empty)"
    assert "hunter2" not in str(found)


def told(text: str, environ: dict[str, str]) -> str:
    try:
        config(text, environ)
    except ConfigError as exc:
        return str(exc)
    return ""


@given(st.text(CHARACTERS), st.sampled_from(sorted(key_types())))
def test_any_text_is_taken_or_refused_in_words(text: str, place: Key) -> None:
    said = told("", {f"TYPELETS_WS_{place[0]}_{place[1]}".upper(): text})
    assert not said or ": expected " in said


@given(st.text(CHARACTERS))
def test_any_file_is_taken_or_refused_in_words(text: str) -> None:
    said = told(text, {})
    assert not said or said.startswith(FILE)


def test_broken_rules_and_missing_keys_are_reported_with_all_other_mistakes() -> None:
    text = """
    [server]
    port = "many"
    allowed_origins = ["https://app.example.com/"]
    [limits]
    unread_bytes = 1
    message_bytes = -1
    [database]
    url = "postgresql://h/d?schema=public"
    pool_min = 9
    """
    with pytest.raises(ConfigError) as caught:
        parse(text, "t.toml", {}, {}, serving=True)
    lines = str(caught.value).splitlines()
    named = [line.partition(" = ")[0].partition(": nothing")[0] for line in lines]
    assert named == [
        "t.toml: [server] port",
        "t.toml: [limits] message_bytes",
        "t.toml: [server] allowed_origins",
        "t.toml: [database] url",
        "t.toml: [database] pool_min",
        "[auth]",
    ]
