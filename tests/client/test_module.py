"""The JavaScript client in Node: simulated server, clock and network; and its types."""

import json
import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.node import NODE, node_package
from typelets_ws.client.command import client_command
from typelets_ws.protocol.fields import ALLOWED
from typelets_ws.schema.json_schema import Note

pytestmark = pytest.mark.timeout(300)  # compilers take seconds of CPU
HERE = Path(__file__).parent
CLIENT = files("typelets_ws") / "client"
FAULT_SEEDS = 12

USE = """
import { TypeletsClient, TypeletsError } from "./typelets-client.js";
import type {
  Conflict, Events, Folder, Note, NoteChanges, Options, Status, StorageAdapter,
} from "./typelets-client.js";

declare const session: {
  getToken(how?: { skipCache?: boolean }): Promise<string | null>;
};
declare const AsyncStorage: {
  getItem(key: string): Promise<string | null>;
  setItem(key: string, text: string): Promise<void>;
};
const storage: StorageAdapter = {
  load: (key) => localStorage.getItem(key),
  save: (key, text) => localStorage.setItem(key, text),
};
const mobile: StorageAdapter = {
  load: AsyncStorage.getItem, save: AsyncStorage.setItem, name: "second",
};
const options: Options = { getToken: (how) => session.getToken(how), storage };
export const other = new TypeletsClient("wss://ws.example.com/", {
  getToken: session.getToken, storage: mobile, sign: true,
});
const client = new TypeletsClient("wss://ws.example.com/", options);
const off: () => void = client.on("status", ({ status, pending, retryInMs, code }) => {
  const badge: Status = status;
  console.log(badge, pending.toFixed(), retryInMs?.toFixed(), code?.toFixed());
});
client.on("change", ({ notes, folders }) => {
  for (const id of notes) console.log(client.get(id)?.tags?.length);
  for (const id of folders) console.log(client.folders.get(id)?.sortOrder.toFixed());
});
client.on("conflict", ({ noteId, changes, base, theirs, error }: Conflict) => {
  console.log(base.title?.length, error?.code, theirs?.hiddenAt?.length);
  client.resolve(noteId, theirs ? changes : null);
});
client.on("refetch", ({ reason }) => client.replace({ notes: [], folders: [] }));
client.on("error", (error) => {
  if (error instanceof TypeletsError) console.log(error.code, error.reply?.type);
  console.log(error.message);
});
client.on("message", ({ type, requestId }) => console.log(type, requestId?.length));
client.on("sent", ({ message, signed }) => console.log(message.type, signed === true));
export function log<Name extends keyof Events>(name: Name): () => void {
  return client.on(name, (event) => console.log(event));
}
const changes: NoteChanges = { starred: true, folderId: null };
export const titles: string[] = client.list().map((note: Note) => note.title);
export const names: string[] = [...client.folders.values()].map((f: Folder) => f.name);
client.edit("id", changes);
client.request({ type: "ping" }, { timeoutMs: 1 }).catch((e: TypeletsError) => e.code);
export const ended: Promise<void> = client.start().then(() => client.stop());
off();
// @ts-expect-error an event that does not exist
client.on("sing", () => {});
// @ts-expect-error a flag that is text
client.edit("id", { starred: "yes" });
// @ts-expect-error a field that does not exist
client.get("id")?.titel;
// @ts-expect-error no field that an edit may change
client.edit("id", { tags: [] });
// @ts-expect-error a storage that saves only
new TypeletsClient("wss://x/", { getToken: async () => null, storage: { save() {} } });
// @ts-expect-error a token that is a number
new TypeletsClient("wss://x/", { getToken: () => 5 });
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The module under a name that Node takes for an ES module."""
    node_package("typescript")  # as Node's own tests: missing it fails in CI
    path = tmp_path / "typelets-client.mjs"
    path.write_bytes((CLIENT / "typelets-client.js").read_bytes())
    return path


def node(module: Path, *arguments: str | Path) -> str:
    ended = subprocess.run(
        [NODE, *arguments], env={**os.environ, "CLIENT": str(module)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_client_in_a_simulated_world(module: Path) -> None:
    assert "# fail 0" in node(module, "--test", HERE / "client.test.mjs")


def test_no_fault_makes_it_wrong_or_loses_an_edit(module: Path) -> None:
    said = node(module, HERE / "faults.mjs", "1", str(FAULT_SEEDS))
    assert said == f"{FAULT_SEEDS} seeds from 1\n"


def test_the_engine_of_react_native_compiles_it(module: Path) -> None:
    """Hermes 1.0; for older ones Babel replaces private members, as it always does."""
    place = node_package("hermes-compiler") / "hermesc" / "linux64-bin"
    # Metro replaces `export`, which Hermes does not know.
    script = module.with_suffix(".js")
    source = re.sub(r"^export ", "", module.read_text("utf-8"), flags=re.M)
    script.write_text(source)
    ended = subprocess.run(
        [place / "hermesc", "-w", "-emit-binary", "-out", "made.hbc", script.name],
        cwd=module.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (module.parent / "made.hbc").stat().st_size > 10_000


def compile(place: Path, *arguments: str) -> None:
    compiler = node_package("typescript") / "bin" / "tsc"
    ended = subprocess.run(
        ["node", compiler, "--strict", "--target", "es2022", "--module", "es2022",
         "--moduleResolution", "bundler", "--lib", "es2023,dom", *arguments],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


def test_the_declarations_are_generated_from_the_module(tmp_path: Path) -> None:
    """To make them again: the flags below, then copy the file from `made`."""
    source = tmp_path / "typelets-client.js"
    source.write_bytes((CLIENT / "typelets-client.js").read_bytes())
    compile(
        tmp_path, "--allowJs", "--checkJs", "--noImplicitAny", "false",
        "--declaration", "--emitDeclarationOnly",
        "--outDir", "made", source.name,
    )  # fmt: skip
    made = (tmp_path / "made" / "typelets-client.d.ts").read_text("utf-8")
    assert (CLIENT / "typelets-client.d.ts").read_text("utf-8") == made


def test_the_declarations_tell_right_from_wrong(tmp_path: Path) -> None:
    types = (CLIENT / "typelets-client.d.ts").read_bytes()
    (tmp_path / "typelets-client.d.ts").write_bytes(types)
    (tmp_path / "use.ts").write_text(USE)
    compile(tmp_path, "--exactOptionalPropertyTypes", "--noEmit", "use.ts")


def test_it_knows_the_fields_of_the_daemon(module: Path) -> None:
    text = module.read_text("utf-8")
    listed = text.split("const EDITABLE = new Set(", 1)[1].split(");", 1)[0]
    assert set(json.loads(listed)) == set(ALLOWED)
    note = text.split("* A note, as the database holds it.", 1)[1].split("*/", 1)[0]
    row = {"id", "updatedAt"}
    assert all(f" {name}: " in note for name in {*Note.__struct_fields__} - row)


@pytest.mark.parametrize(("flags", "name"), [([], "js"), (["--types"], "d.ts")])
def test_the_command_prints_it(flags: list[str], name: str) -> None:
    printed = CliRunner().invoke(client_command, flags)
    assert printed.output == (CLIENT / f"typelets-client.{name}").read_text("utf-8")
