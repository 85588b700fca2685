"""Each cell of the README's table of guarantees names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


def section() -> str:
    readme = (ROOT / "README.md").read_text()
    return re.split(r"\n### ", readme.split("\n### Recovery\n")[1])[0]


def test_each_cell_names_its_tests() -> None:
    rows = [line for line in section().splitlines() if line.startswith("| ")]
    _, _, *cells = [
        row.strip("| ").split(" | ")[1:] for row in rows if "---" not in row
    ]
    assert len(cells) >= 7
    for row in cells:
        assert len(row) == 2
        for cell in row:
            assert re.search(f"[{MARKS}]", cell), cell


def test_each_test_named_exists() -> None:
    text = section()
    (listed,) = re.findall(r"^Tests: (.*)$", text, re.MULTILINE)
    for mark in MARKS:
        assert f"{mark} `" in listed, mark
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in re.findall(r"`(test_\w+)`", text):
        assert any(f"def {name}(" in source for source in sources.values()), name
    for name in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / name).is_file(), name
