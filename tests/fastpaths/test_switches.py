"""The switch itself, and a daemon with every path off."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from tests.daemon import RunningDaemon
from tests.postgres import Database
from typelets_ws.config.load import load
from typelets_ws.config.model import ConfigError
from typelets_ws.fastpaths import FAST_PATHS, VARIABLE, FastPaths

Boot = Callable[..., AbstractAsyncContextManager[RunningDaemon]]
NONE = FastPaths.named("none")


def test_each_path_has_a_switch_a_module_and_a_test() -> None:
    assert [path.name for path in FAST_PATHS] == [f.name for f in fields(FastPaths)]
    for path in FAST_PATHS:
        import_module(f"typelets_ws.{path.module}")
        assert (Path(__file__).parent / f"test_{path.name}.py").exists()


def test_names_choose() -> None:
    assert FastPaths.named("all") == FastPaths()
    assert not any(getattr(NONE, path.name) for path in FAST_PATHS)
    assert FastPaths.named(" libpq, frames") == FastPaths(
        upgrade=False, writes=False, tokens=False, idle=False, counters=False
    )
    assert FastPaths.named("") == NONE


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=f"{VARIABLE}: turbo; expected all, none"):
        FastPaths.named("libpq,turbo")


def test_the_variable_is_no_setting() -> None:
    assert load(None, {VARIABLE: "none", "CLERK_SECRET_KEY": "sk_test_x"}, {})


async def test_a_daemon_refuses_to_start_with_an_unknown_name(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "turbo")
    with pytest.raises(ConfigError, match="turbo"):
        async with boot():
            pass


async def test_a_daemon_without_fast_paths_serves(
    boot: Boot, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    user = "user_alice"
    database.add_user(user)
    note = database.add_note(user, title="old")
    async with (
        boot() as running,
        running.device(user) as sender,
        running.device(user) as other,
    ):
        assert running.daemon.state.whole_text(b"\x81\x80mask") is None
        assert (await sender.ask({"type": "ping"}))["type"] == "pong"
        update = {"type": "note_update", "noteId": note, "changes": {"title": "new"}}
        reply = await sender.ask(update)
        assert reply["type"] == "note_update_success"
        sync = await other.receive()
        assert sync["updatedNote"] == reply["updatedNote"]
        assert database.note(note)["title"] == "new"
        assert running.figure("messages_total", type="note_update", result="ok") == 1
