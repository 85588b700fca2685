"""What a publisher is given, as JSON. Whatever does not fit raises `ValueError`.

Law: nothing half right is sent. The error names the argument and the way into it
("updated_note.tags[2]"), so that it is found where it was made.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

__all__ = ["data", "identifier", "is_whole", "optional_data", "text"]

_object: Final = msgspec.json.Decoder(dict[str, Any])


def text(value: object, name: str) -> str:
    """The text, which is not empty and fits UTF-8."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: expected text that UTF-8 can hold") from None
    return value


def identifier(value: object, name: str) -> str:
    """An id as text; a `UUID` in its usual form."""
    return str(value) if isinstance(value, UUID) else text(value, name)


def optional_data(value: object, name: str) -> Raw | UnsetType:
    """Like `data`; None is left out of the event."""
    return UNSET if value is None else data(value, name)


def data(value: object, name: str) -> Raw:
    """JSON of an object: of a mapping, or as it is in bytes."""
    if isinstance(value, bytes):
        try:
            value.decode()
            _object.decode(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name}: expected JSON of an object") from None
        return Raw(value.strip())
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected a mapping, or JSON of an object as bytes")
    try:
        return Raw(msgspec.json.encode(_plain(value, name)))
    except RecursionError:
        raise ValueError(f"{name}: nested too deep, or in a circle") from None


def _plain(value: object, path: str) -> Any:
    """The value in words that JSON has. Raises `ValueError` with the path."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, path) if value else value
    if is_whole(value) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        utc = moment.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {
            text(key, f"{path}: a key"): _plain(inside, f"{path}.{key}")
            for key, inside in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(inside, f"{path}[{n}]") for n, inside in enumerate(value)]
    raise ValueError(f"{path}: {type(value).__name__} cannot be sent as JSON")


def is_whole(value: object) -> bool:
    """True for an integer that 64 bits hold: the encoder takes no larger one."""
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and -(2**63) <= value < 2**64
    )
