"""A whole note in wire format, as a REST service publishes it."""

from typing import Any

NOTE_ID = "00000000-0000-4000-8000-000000000001"


def whole_note(user_id: str, **changed: Any) -> dict[str, Any]:
    """The 18 keys, with some of them changed."""
    return {
        "id": NOTE_ID,
        "userId": user_id,
        "folderId": None,
        "title": "[ENCRYPTED]",
        "content": "[ENCRYPTED]",
        "type": "note",
        "encryptedTitle": "x",
        "encryptedContent": None,
        "iv": None,
        "salt": None,
        "starred": False,
        "archived": False,
        "deleted": False,
        "hidden": False,
        "hiddenAt": None,
        "tags": [],
        "createdAt": "2026-01-02T03:04:05.678Z",
        "updatedAt": "2026-01-02T03:04:05.678Z",
        **changed,
    }
