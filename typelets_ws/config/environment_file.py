"""Files of environment variables, read as systemd reads `EnvironmentFile=`.

systemd.exec(5): `NAME=value` a line; blank lines and lines that begin with # or ; are
skipped; a backslash at the end of a line continues it; single and double quotes group,
and may span lines; outside of single quotes a backslash takes the next character as it
is. Nothing is expanded: $ is an ordinary character.
"""

import re
from typing import Final

__all__ = ["parse_environment"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE: Final = re.compile(
    r"""[ \t]*(?P<value>(?:
        '[^']*'
      | "(?:\\.|[^"\\])*"
      | \\.
      | [^'"\\\n]
    )*)(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_PART: Final = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)"""
    r"""|(?P<plain>[^'"\\]+)""",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def parse_environment(text: str) -> dict[str, str]:
    """The variables of a file, the last of repeated ones.

    Raises `ValueError` with the number of the first line that is no assignment.
    """
    found: dict[str, str] = {}
    position, text = 0, text.replace("\r\n", "\n")
    while position < len(text):
        line = text[position : (text + "\n").index("\n", position)]
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            position += len(line) + 1
            continue
        name, equals, _ = line.partition("=")
        value = _VALUE.match(text, position + len(name) + 1)
        name = name.strip()
        if not equals or value is None or not _NAME.fullmatch(name):
            number = text.count("\n", 0, position) + 1
            raise ValueError(f"line {number}: expected NAME=value")
        found[name] = _unquoted(value["value"])
        position = value.end()
    return found


def _unquoted(value: str) -> str:
    """The value without its quotes; spaces at the end count only inside of them."""
    parts: list[str] = []
    kept = 0
    for part in _PART.finditer(value):
        if part["plain"] is not None:
            parts.append(part["plain"])
            kept = max(kept, len("".join(parts).rstrip(" \t")))
            continue
        if part["single"] is not None:
            parts.append(part["single"])
        elif part["double"] is not None:
            parts.append(_ESCAPE.sub(_escaped, part["double"]))
        else:
            parts.append("" if part["escaped"] == "\n" else part["escaped"])
        kept = len("".join(parts))
    return "".join(parts)[:kept]


def _escaped(match: re.Match[str]) -> str:
    """Inside double quotes a backslash is special before these characters only."""
    if match[1] == "\n":
        return ""
    return match[1] if match[1] in '"\\`$' else match[0]
