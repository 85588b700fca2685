"""The threat model in the README names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.hostile import ALL
from tests.hostile.__main__ import HEAD
from tests.hostile.clients import ATTACKS

ROOT = Path(__file__).parents[2]
PROOF = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def proofs() -> list[tuple[str, str]]:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("### Threat model")[2].partition("\n## ")[0]
    return PROOF.findall(section)


def test_there_is_a_proof_for_each_row() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("### Threat model")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    without = [row for row in rows if not PROOF.search(row)]
    assert len(rows) - len(without) >= 25
    assert all(row.endswith("| proof |") for row in without)


@pytest.mark.parametrize(("file", "name"), proofs())
def test_the_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not name or name in names


def test_the_attack_table_has_a_row_for_each_attack() -> None:
    assert ALL
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition(HEAD)[2].partition("\n\n")[0]
    assert re.findall(r"^\| (.+?) \| \d+% ", table, re.MULTILINE) == list(ATTACKS)
