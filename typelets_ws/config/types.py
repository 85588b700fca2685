"""The type of every key: parsing of text, and a description of the valid values.

Descriptions are derived from the types, so they always agree with the check.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from msgspec import inspect, structs

from .model import Config

__all__ = ["expected", "key_types", "parse_text"]

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True,
             "false": False, "0": False, "no": False, "off": False}  # fmt: skip


@cache
def key_types() -> Mapping[tuple[str, str], Any]:
    """The type of every (section, key), in the order of the file."""
    return {
        (section.name, field.name): field.type
        for section in structs.fields(Config)
        for field in structs.fields(section.type)
    }


def parse_text(kind: Any, text: str) -> object:
    """Parse `text` as `kind`; text that does not parse is returned unchanged."""
    match inspect.type_info(kind):
        case inspect.VarTupleType():
            return [part.strip() for part in text.split(",") if part.strip()]
        case inspect.BoolType():
            return _BOOLEANS.get(text.lower(), text)
        case inspect.IntType():
            # int() would also take 1_000 and other scripts' digits.
            return int(text) if _WHOLE.fullmatch(text) else text
        case inspect.FloatType():
            return float(text) if _DECIMAL.fullmatch(text) else text
    return text


def expected(kind: Any) -> str:
    """Describe the valid values of a type."""
    match inspect.type_info(kind):
        case inspect.LiteralType():
            return f"one of {', '.join(get_args(kind))}"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType() as number:
            return _expected_number(number)
        case inspect.VarTupleType():
            return "a list of texts, none of them empty"
        case inspect.UnionType():
            return "a text that is not empty, or a list of such texts"
        case inspect.StrType(min_length=1):
            return "a text that is not empty"
    return "a text"


def _expected_number(kind: inspect.IntType | inspect.FloatType) -> str:
    match kind:
        case inspect.IntType(ge=low, le=high):
            return f"a whole number of at least {low} (at most {high})"
        case inspect.FloatType(gt=None, ge=low, le=high):
            return f"a number of at least {low:g} (at most {high:.0f})"
    return f"a number above {kind.gt:g} (at most {kind.le:.0f})"
