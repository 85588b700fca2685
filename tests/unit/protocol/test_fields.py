"""Values of a message's fields: accepted, left out, or refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.texts import CHARACTERS
from typelets_ws.protocol import fields
from typelets_ws.protocol.errors import FOREIGN_RESOURCE, ClientError, Code

ID = "0123abcd-0000-4000-8000-00000000000f"


def raws(**values: object) -> dict[str, Raw]:
    return {name: Raw(json.dumps(value).encode()) for name, value in values.items()}


def accepted(*, require_encrypted: bool = False, **values: object) -> Any:
    return fields.accepted_changes(raws(**values), require_encrypted=require_encrypted)


def refused(text: str, **values: object) -> None:
    with pytest.raises(ClientError) as caught:
        accepted(**values)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.message) == (Code.INVALID_FIELD, text)


def test_ids_are_uuids_in_lower_case() -> None:
    assert fields.uuid(ID.upper(), "noteId") == ID


@pytest.mark.parametrize("absent", [None, ""])
def test_a_missing_id_is_named(absent: str | None) -> None:
    with pytest.raises(ClientError, match="Missing noteId"):
        fields.uuid(absent, "noteId")


@pytest.mark.parametrize(
    "bad", ["x", ID + "\n", " " + ID, ID[1:], f"{{{ID}}}", ID.replace("a", "\u0430")]
)
def test_a_malformed_id_is_named(bad: str) -> None:
    with pytest.raises(ClientError, match="Invalid noteId"):
        fields.uuid(bad, "noteId")


def test_allowed_fields_are_accepted_and_others_reported_by_known_names() -> None:
    values: dict[str, Any] = {
        "title": "t", "content": None, "encryptedTitle": "", "encryptedContent": None,
        "starred": True, "archived": False, "deleted": True, "hidden": False,
        "folderId": ID,
    }  # fmt: skip
    extra: dict[str, Any] = {"tags": [], "hiddenAt": None, "evil": 1, "__proto__": {}}
    changes, left_out = accepted(**values, **extra)
    assert changes == values
    assert left_out == {"tags": 1, "hiddenAt": 1, "other": 2}


@pytest.mark.parametrize(("given_", "value"), [("", None), (None, None)])
def test_an_empty_folder_id_means_none(given_: object, value: object) -> None:
    assert accepted(folderId=given_)[0] == {"folderId": value}


def test_wrong_types_are_refused_by_name() -> None:
    for name, values in {
        "title": [None, 1, {}], "content": [1, []], "starred": ["yes", 1, None],
        "folderId": [5, "x", {}], "encryptedTitle": [True, "a\0"],
    }.items():  # fmt: skip
        for value in values:  # type: ignore[attr-defined]
            refused(f"Invalid {name}", **{name: value})


def test_text_of_broken_surrogates_and_endless_nesting_is_refused() -> None:
    for raw in (b'"\\ud800"', b"[" * 50_000):
        with pytest.raises(ClientError, match="Invalid title"):
            fields.accepted_changes({"title": Raw(raw)}, require_encrypted=False)


def test_plain_text_is_refused_where_only_ciphertext_may_be() -> None:
    refused("title must be encrypted", require_encrypted=True, title="plain")
    refused("content must be encrypted", require_encrypted=True, content=None)
    changes, _ = accepted(
        require_encrypted=True, title="[ENCRYPTED]", encryptedTitle="x"
    )
    assert changes == {"title": "[ENCRYPTED]", "encryptedTitle": "x"}


def test_an_object_is_passed_on_as_it_is() -> None:
    data = Raw(b'{ "x":1.0}')
    assert fields.json_object(data, "noteData") is data
    for absent in (b"", b"null"):
        assert fields.json_object(Raw(absent), "noteData") is None
    for wrong in (b"5", b"[]", b'"x"', b"true"):
        with pytest.raises(ClientError, match="Invalid noteData"):
            fields.json_object(Raw(wrong), "noteData")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("{}", None),
        ('{"userId":"alice"}', None),
        (f'{{"id":"{ID.upper()}","userId":"alice"}}', ID),
    ],
)
def test_ones_own_data_tells_its_id(data: str, found: str | None) -> None:
    assert fields.check_owner(Raw(data.encode()), "alice", "noteId") == found


@pytest.mark.parametrize("owner", ['"bob"', "5", "null", '""', "{}"])
def test_anothers_data_is_refused(owner: str) -> None:
    data = Raw(f'{{"userId":{owner}}}'.encode())
    with pytest.raises(ClientError) as caught:
        fields.check_owner(data, "alice", "noteId")
    assert caught.value.message == FOREIGN_RESOURCE
    assert caught.value.code is Code.ACCESS_DENIED


@pytest.mark.parametrize("bad", ["5", '"x"', "{}"])
def test_an_id_inside_data_must_be_one(bad: str) -> None:
    with pytest.raises(ClientError, match="noteId"):
        fields.check_owner(Raw(f'{{"id":{bad}}}'.encode()), "alice", "noteId")


@pytest.mark.parametrize("data", [b"{}", b'{"id":null}'])
def test_data_without_an_id_has_none(data: bytes) -> None:
    assert fields.check_owner(Raw(data), "alice", "noteId") is None


@given(
    st.dictionaries(
        st.sampled_from(["title", "content", "starred", "folderId", "tags", "x"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(CHARACTERS)
        | st.lists(st.none()),
    ),
    st.booleans(),
)
def test_what_is_accepted_has_the_right_types(
    values: dict[str, object], require_encrypted: bool
) -> None:
    try:
        changes, _ = accepted(require_encrypted=require_encrypted, **values)
    except ClientError:
        return
    assert isinstance(changes.get("title", ""), str)
    assert isinstance(changes.get("starred", True), bool)
    assert set(changes) <= set(fields.ALLOWED)
