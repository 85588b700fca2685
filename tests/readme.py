"""The README, taken apart for the tests that hold it to its word."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")


class Block(NamedTuple):
    """A fenced block; `name` is the file its first line names, if any."""

    language: str
    name: str
    text: str


def blocks() -> list[Block]:
    found = []
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S):
        named = re.match(r"(?://|#) ([\w-]+\.\w+)\n", text)
        found.append(Block(language, named[1] if named else "", text))
    return found


def commands() -> list[list[str]]:
    """Every command of the shell blocks, as words without redirections."""
    found = []
    for block in blocks():
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition(" #")[0])
                words = words[: words.index(">")] if ">" in words else words
                if words:
                    found.append(words)
    return found


def promises() -> list[list[str]]:
    """The command of each row in the first table, as words."""
    rows = re.findall(r"^\|.*\| `([^`]+)` \|$", TEXT.split("\n## ", 1)[0], re.M)
    return [shlex.split(row) for row in rows]


def unpack(place: Path) -> None:
    """Write the named examples into a directory."""
    for block in blocks():
        if block.name:
            (place / block.name).write_text(block.text, "utf-8")


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = TEXT.split(f"\n{heading}\n", 1)[1]
    rows = re.search(r"^\|.*?(?=^[^|])", section + "\n.", re.M | re.S)
    assert rows, heading
    lines = rows[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
