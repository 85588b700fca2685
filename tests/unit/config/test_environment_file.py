"""Files of environment variables, as systemd.exec(5) describes them."""

import pytest

from typelets_ws.config.environment_file import parse_environment


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# no\n; no\n\n  # no\nA=1\n", {"A": "1"}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=\n", {"A": ""}),
        ("A = 1 2  \n", {"A": "1 2"}),
        ("A=redis://u:p@h:6379/0?x=1#y\n", {"A": "redis://u:p@h:6379/0?x=1#y"}),
        ("A='it  is $HOME \\n '\n", {"A": "it  is $HOME \\n "}),
        ('A="say \\"x\\" \\\\ \\n $HOME"\n', {"A": 'say "x" \\ \\n $HOME'}),
        ('A="-----BEGIN\nKEY"\nB=2\n', {"A": "-----BEGIN\nKEY", "B": "2"}),
        ("A=one \\\ntwo\nB=2\n", {"A": "one two", "B": "2"}),
        ("A=a\\ b\\'c\n", {"A": "a b'c"}),
        ("A='x'y\"z\"\r\nB=2\r\n", {"A": "xyz", "B": "2"}),
    ],
)
def test_what_systemd_takes(text: str, found: dict[str, str]) -> None:
    assert parse_environment(text) == found


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1\nno assignment\n", 2), ("1A=2\n", 1), ("A='open\n", 1), ("=x\n", 1)],
)
def test_what_is_no_assignment_is_named_by_its_line(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=rf"^line {line}: expected NAME=value$"):
        parse_environment(text)
