"""The TypeScript types, compiled by TypeScript itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.node import node_package

pytestmark = pytest.mark.timeout(300)  # compilers take seconds of CPU

USE = """
import type {
  ClientMessage, CloseCode, Code, FolderData, Note, NoteChanges, ServerMessage,
  ServiceEvent, SignedMessage,
} from "./protocol";

interface Mine { id: string; title: string }
const mine: Mine = { id: "1", title: "t" };
export const said: ClientMessage[] = [
  { type: "ping" },
  { type: "note_created", noteData: mine, requestId: "1" },
  { type: "note_update", noteId: mine.id, changes: { starred: true, folderId: null } },
];
export const signed: SignedMessage =
  { payload: said[0]!, signature: "", timestamp: 1, nonce: "" };
export const published: ServiceEvent =
  { event: "note_deleted", noteId: mine.id, exceptConnectionId: "c" };

const advice: Partial<Record<Code, string>> = { RATE_LIMITED: "wait" };
export const final: CloseCode = 4401;

export function heard(message: ServerMessage): Note | string | undefined {
  switch (message.type) {
    case "note_created_sync": return message.noteData.title;
    case "folder_updated_sync": return message.updatedFolder?.name;
    case "note_sync": return message.updatedNote;
    case "error": return advice[message.code] ?? message.requestId;
    case "auth_success": return message.connectionId;
    default: return undefined;
  }
}

// @ts-expect-error a message that does not exist
export const unknown: ClientMessage = { type: "sing" };
// @ts-expect-error a field that is missing
export const incomplete: ClientMessage = { type: "join_note" };
// @ts-expect-error a key that folders do not have
export const unnamed: FolderData = { id: "1", title: "t" };
// @ts-expect-error a flag that is text
export const wrong: NoteChanges = { starred: "yes" };
"""


def compile_types(place: Path, name: str) -> None:
    """Compile a file strictly, with what it imports."""
    compiler = node_package("typescript") / "bin" / "tsc"
    checked = subprocess.run(
        ["node", compiler, "--strict", "--exactOptionalPropertyTypes",
         "--noUncheckedIndexedAccess", "--target", "es2022", "--noEmit", name],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_the_types_compile_and_tell_right_from_wrong(tmp_path: Path) -> None:
    printed = subprocess.run(
        [Path(sys.executable).with_name("typelets-ws"), "schema",
         "--format", "typescript"],
        capture_output=True, check=True,
    )  # fmt: skip
    (tmp_path / "protocol.ts").write_bytes(printed.stdout)
    (tmp_path / "use.ts").write_text(USE)
    compile_types(tmp_path, "use.ts")
