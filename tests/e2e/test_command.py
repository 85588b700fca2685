"""The main job with the installed command and strangers' clients; its manners.

websockets' client, Node's `ws` and `redis-cli` know nothing of this package.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.sync.client import connect as connect_sync

from tests.daemon import Device
from tests.e2e.supervisor import (
    COMMAND,
    Process,
    Supervisor,
    quiet_port,
    supervised,
    wait_until,
)
from tests.postgres import Database
from tests.redis import RedisServer
from tests.tokens import mint, public_pem
from tests.within import PATIENCE_S
from typelets_ws import cli
from typelets_ws.cli import main

Result = subprocess.CompletedProcess[str]
NODE_PATH = os.environ.get("NODE_PATH", "/usr/share/nodejs")
NODE_CLIENT = """
const WebSocket = require('ws')
const [url, token] = process.argv.slice(1)
const socket = new WebSocket(url)
socket.on('message', data => {
  const text = data.toString()
  if (JSON.parse(text).type === 'connection_established')
    socket.send(JSON.stringify({type: 'auth', token}))
  console.log(text)
})
socket.on('close', code => console.log(JSON.stringify({type: 'closed', code})))
"""
NOTE = "5f0c4d1a-0000-4000-8000-000000000001"
DELETED = f'{{"noteId": "{NOTE}"}}'
COMMANDS = sorted(cli.COMMANDS)


def missing(what: str) -> None:
    """Fail in CI, skip at home."""
    if "CI" in os.environ:
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


@contextmanager
def node_device(url: str, token: str) -> Iterator["subprocess.Popen[str]"]:
    """Node's `ws` as a device; it prints what it receives."""
    environ = {**os.environ, "NODE_PATH": NODE_PATH}
    if shutil.which("node") is None:
        missing("node")
    there = subprocess.run(
        ["node", "-e", "require('ws')"], env=environ, capture_output=True, check=False
    )
    if there.returncode:
        missing("ws for Node")
    process = subprocess.Popen(
        ["node", "-e", NODE_CLIENT, url, token],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def printed(device: "subprocess.Popen[str]") -> str:
    assert device.stdout is not None
    return device.stdout.readline().rstrip("\n")


async def test_an_event_of_redis_cli_reaches_all_devices_of_its_user_and_no_other(
    redis_server: RedisServer, database: Database
) -> None:
    data = '{"id": "x",  "odd" : 1.0e0, "text": "\u00e9\\u00e9 \\"q\\""}'
    event = f'{{"event":"note_created","noteData":{data},"publishedAt":1700000000000}}'
    expected = (
        f'{{"type":"note_created_sync","timestamp":1700000000000,'
        f'"fromUserId":"server","noteData":{data}}}'
    )

    def same(text: str) -> bool:
        # The data to the byte, the rest in any order.
        return f'"noteData":{data}' in text and json.loads(text) == json.loads(expected)

    publish = ["PUBLISH", "typelets:user:alice", event]

    with supervised(redis_server.url, database.url) as supervisor:
        process = supervisor.start()
        await process.heard("READY=1")
        with node_device(supervisor.url, mint("alice")) as node:
            assert await asyncio.to_thread(printed, node)
            greeted = json.loads(await asyncio.to_thread(printed, node))
            assert greeted["type"] == "auth_success"
            async with (
                connect(supervisor.url) as one,
                connect(supervisor.url) as two,
                connect(supervisor.url) as other,
            ):
                devices = [Device(one), Device(two), Device(other)]
                for device, user in zip(
                    devices, ("alice", "alice", "bob"), strict=True
                ):
                    await device.receive()
                    await device.auth(mint(user))
                heard = await asyncio.to_thread(
                    subprocess.check_output,
                    ["redis-cli", "-u", redis_server.url, *publish],
                )
                assert heard.strip() == b"1"
                phone, laptop, stranger = devices
                assert same(await phone.receive_raw())
                assert same(await laptop.receive_raw())
                assert same(await asyncio.to_thread(printed, node))
                assert await stranger.barrier() == []
                process.send(signal.SIGTERM)
                assert await process.ended() == 0
                closed = json.loads(await asyncio.to_thread(printed, node))
                assert closed == {"type": "closed", "code": 1012}


# The companions of a running daemon.


@pytest.fixture
def service(redis_server: RedisServer, database: Database) -> Iterator[Supervisor]:
    with supervised(redis_server.url, database.url) as supervisor:
        process = supervisor.start()
        process.await_note("READY=1")
        yield supervisor


def command(*args: str | Path, **environ: str) -> Result:
    return subprocess.run(
        [COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **environ},
    )


def commands(*lines: Sequence[str], **environ: str) -> list[Result]:
    """Several at once: most of each is Python's own start."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda line: command(*line, **environ), lines))


def told(result: Result) -> str:
    """The one line a refusal is."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_publish_disconnect_and_status_find_a_running_daemon(
    service: Supervisor,
) -> None:
    config = ("-c", str(service.config))
    with (
        connect_sync(service.url) as one,
        connect_sync(service.url) as two,
    ):
        for number, socket_ in enumerate((one, two), 1):
            socket_.recv(PATIENCE_S)
            token = mint("alice", sid=f"sess_{number}")
            socket_.send(json.dumps({"type": "auth", "token": token}))
            assert json.loads(socket_.recv(PATIENCE_S))["type"] == "auth_success"

        status = command("status", *config)
        assert status.returncode == 0
        assert re.search(r"^authenticated +2$", status.stdout, re.MULTILINE)
        assert re.search(r"^ +2  alice$", status.stdout, re.MULTILINE)
        found = json.loads(command("status", "--json", *config).stdout)
        assert found["ready"] is True
        assert found["connections"]["perUser"] == [
            {"userId": "alice", "deviceCount": 2}
        ]

        sent = command("publish", *config, "--user", "alice", "note_deleted", DELETED)
        assert sent.returncode == 0
        assert "1 process(es) heard it" in sent.stdout
        for socket_ in (one, two):
            message = json.loads(socket_.recv(PATIENCE_S))
            assert message["type"] == "note_deleted_sync"
            assert message["noteId"] == NOTE

        cut = command("disconnect", *config, "--user", "alice", "--session", "sess_1")
        assert cut.returncode == 0
        with pytest.raises(Exception, match="4401"):
            one.recv(PATIENCE_S)
        two.ping().wait(PATIENCE_S)
        assert command("disconnect", *config, "--user", "alice").returncode == 0
        with pytest.raises(Exception, match="4401"):
            two.recv(PATIENCE_S)


def test_a_port_that_is_taken_is_one_line_that_says_which(service: Supervisor) -> None:
    port, admin = str(service.port), str(service.admin_port)
    config = ("serve", "-c", str(service.config))
    public = command(*config, TYPELETS_WS_ADMIN_PORT="0")
    assert public.returncode == 1
    assert told_last(public) == (
        f"typelets-ws: [server] host = '127.0.0.1', port = {port}: "
        "cannot listen: Address already in use"
    )
    private = command(*config, "--port", "0")
    assert private.returncode == 1
    assert told_last(private) == (
        f"typelets-ws: [admin] host = '127.0.0.1', port = {admin}: "
        "cannot listen: Address already in use"
    )


def told_last(result: Result) -> str:
    """The refusal; nothing but cautions in the log before it."""
    *cautions, last = result.stderr.splitlines()
    assert {json.loads(line)["event"] for line in cautions} <= {"caution", "file_limit"}
    return last


# Manners.


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Example:    typelets-ws {name}" in shown.stdout


def test_the_module_is_the_command() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "typelets_ws", "--version"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.returncode == 0
    assert found.stdout == command("--version").stdout


def test_bad_usage_is_2() -> None:
    runner = CliRunner()
    for args in (
        ["no-such-command"],
        ["serve", "--no-such-flag"],
        ["serve", "--port", "http"],
        ["publish", "note_deleted"],
        ["publish", "--user", "alice", "no_such_event"],
        ["publish", "--user", "alice", "note_deleted", "[1]"],
        ["publish", "--user", "alice", "note_deleted", "{}"],
    ):
        result = runner.invoke(main, args)
        assert result.exit_code == 2, args
        assert "typelets-ws: " in result.stderr or "Usage: " in result.stderr


def test_a_bad_configuration_is_78_and_says_where_what_and_why(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[limits]\nrate_messages = "many"\n[server]\nprot = 1\n')
    for name in ("serve", "check-config"):
        result = command(name, "-c", path)
        assert result.returncode == 78
        first, second, keys = sorted(result.stderr.splitlines())
        assert f"{path}: [limits] rate_messages = 'many'" in first
        assert "expected a whole number" in first
        assert f"{path}: [server] prot: unknown key; did you mean port?" in second
        assert "nothing to check tokens with" in keys


def test_a_key_that_is_missing_is_78_and_is_not_shown(tmp_path: Path) -> None:
    secret = "MARKER-of-a-key-pasted-wrongly"
    names = [["serve"], ["check-config"]]
    for result in commands(*names, CLERK_JWT_KEY=secret):
        assert result.returncode == 78
        assert "CLERK_JWT_KEY = (secret): expected an RSA public key in PEM" in told(
            result
        )
        assert "MARKER" not in result.stderr + result.stdout
    assert [result.returncode for result in commands(*names)] == [78, 78]  # none


def test_a_certificate_that_cannot_be_used_is_78(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    absent = tmp_path / "absent.pem"
    config.write_text(
        '[auth]\njwks_url = "https://clerk.example/jwks"\n[server]\n'
        f'tls_certificate = "{absent}"\ntls_key = "{absent}"\n'
    )
    for name in ("serve", "check-config"):
        result = command(name, "-c", config)
        assert result.returncode == 78
        last = result.stderr.splitlines()[-1]
        assert f"[server] tls_certificate = '{absent}'" in last
        assert "No such file or directory" in last


def test_a_mistake_of_the_daemon_ends_with_1_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ExceptionGroup("several", [RuntimeError("bug\nMARKER of a row")])

    monkeypatch.setattr("typelets_ws.serve_command.serve", broken)
    environ = {"CLERK_JWT_KEY": public_pem()}
    result = CliRunner().invoke(main, ["serve"], env=environ)
    assert result.exit_code == 1
    *_, line = result.stderr.splitlines()
    assert json.loads(line)["event"] == "crashed"
    assert "RuntimeError: bug" in line
    assert "MARKER" not in line


def test_companions_without_a_daemon_say_so_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[redis]\nurl = "redis://:hunter2@127.0.0.1:{quiet_port()}/0"\n'
        f"[admin]\nport = {quiet_port()}\n"
    )
    for result in commands(
        ["status", "-c", str(config)],
        ["disconnect", "-c", str(config), "--user", "alice"],
        ["publish", "-c", str(config), "--user", "alice", "note_deleted", DELETED],
    ):
        assert result.returncode == 1
        assert "Connection refused" in told(result)
        assert "hunter2" not in result.stderr


def test_no_one_outside_is_a_line_each_and_serving_goes_on(tmp_path: Path) -> None:
    nowhere = quiet_port()
    with supervised(
        f"redis://127.0.0.1:{nowhere}/0", f"postgresql://127.0.0.1:{nowhere}/x"
    ) as supervisor:
        process = supervisor.start()
        process.await_note("STATUS=0 devices of 0 users; not ready: postgres", 15)
        assert len(process.logged("redis_down")) == 1
        assert len(process.logged("postgres_unreachable")) == 1
        assert not process.logged("statement_failed")
        # The pool's own line has the reason; once is enough.
        texts = [line["text"] for line in process.logged("psycopg.pool")]
        assert len(texts) == len(set(texts)) <= 3
        with connect_sync(supervisor.url) as device:
            assert "connection_established" in str(device.recv(PATIENCE_S))
        process.send(signal.SIGTERM)
        assert process.wait() == 0


# `dev`, as a newcomer meets it.


def relatives(data: Path) -> list[str]:
    """Command lines of processes that work in the data directory or below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(data) in line:
            found.append(line)
    return found


def test_dev_starts_prints_lines_that_work_as_pasted_and_ends_with_ctrl_c(
    tmp_path: Path,
) -> None:
    data = tmp_path / "typelets-ws" / "dev"
    port, admin = quiet_port(), quiet_port()
    environ = {"XDG_STATE_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    args = ["dev", "--port", str(port), "--admin-port", str(admin)]
    process = Process([COMMAND, *args], environ, tmp_path / "log")
    try:
        wait_until(lambda: "Ctrl-C" in process.text or not process.running)
        text = process.text
        (url,) = set(re.findall(rf"ws://127\.0\.0\.1:{port}/?", text))
        token = re.findall(r"eyJ[\w.-]+", text)[0]
        with connect_sync(url, compression=None) as device:
            device.recv(PATIENCE_S)
            device.send(json.dumps({"type": "auth", "token": token}))
            user = json.loads(device.recv(PATIENCE_S))["userId"]
            lines = re.findall(r"^ *(\S*typelets-ws publish .*)$", text, re.MULTILINE)
            assert lines
            for line in lines:
                assert user in line
                pasted = subprocess.run(
                    ["bash", "-c", line],
                    env={
                        **os.environ,
                        **environ,
                        "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
                    },
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_S,
                    check=False,
                )
                assert pasted.returncode == 0, pasted.stderr
                # A device from before Redis answered gets resync_required first.
                found = json.loads(device.recv(PATIENCE_S))["type"]
                while found == "resync_required":
                    found = json.loads(device.recv(PATIENCE_S))["type"]
                assert found.endswith("_sync")
        children = relatives(data)
        assert children
        process.send(signal.SIGINT)
        assert process.wait() == 0, process.text
        assert relatives(data) == []
        assert "Traceback" not in process.text
    finally:
        process.kill()
