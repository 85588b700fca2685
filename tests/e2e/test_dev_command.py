"""`typelets-ws dev` and its companions, as a newcomer meets them."""

import json
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.dev import COMMAND, Dev, descendants, dev
from tests.postgres import Database
from tests.redis import RedisServer, free_port
from tests.tokens import public_pem
from tests.within import PATIENCE_S

__all__ = ["dev"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_ctrl_c_ends_it_and_leaves_no_child(tmp_path: Path) -> None:
    own = Dev(tmp_path)
    own.start()
    pid, below = own.pid, descendants(own.pid)
    names = {Path(f"/proc/{child}/comm").read_text().strip() for child in below}
    assert "postgres" in names
    assert own.interrupt() == 0
    left = {one for one in below | {pid} if Path(f"/proc/{one}").exists()}
    assert left == set()
    # Files for the companions are gone, the data has stayed.
    assert not (own.data / "config.toml").exists()
    assert (own.data / "signing-key.pem").exists()
    # Redis and Postgres outlive the drain, though the terminal's signal reaches them.
    assert '"level": "error"' not in own.said
    assert "postgres_away" not in own.said
    assert "redis_down" not in own.said


def test_every_printed_command_works_as_pasted(dev: Dev) -> None:
    commands = [
        shlex.split(line)
        for line in dev.said.splitlines()
        if re.match(r"  \S*typelets-ws ", line)
    ]
    programs = {shutil.which(program) for program, *_ in commands}
    assert {Path(str(program)).resolve() for program in programs} == {COMMAND.resolve()}
    assert [command[1] for command in commands] == ["token", "publish", "status"]
    token = re.findall(r"^  user_alice +(\S+)$", dev.said, re.MULTILINE)[0]
    with connect(dev.page.replace("http", "ws"), compression=None) as device:
        device.recv(PATIENCE_S)
        device.send(json.dumps({"type": "auth", "token": token}))
        assert json.loads(device.recv(PATIENCE_S))["type"] == "auth_success"
        for _, *words in commands:
            done = run(*words)
            assert done.returncode == 0, done.stderr
    assert "ready          yes" in done.stdout


def test_it_ends_when_its_terminal_closes(tmp_path: Path) -> None:
    own = Dev(tmp_path)
    own.port = own.admin_port = 0
    own.start()
    for name in ("Page", "Metrics"):  # of the ports that it was free to choose
        urllib.request.urlopen(own.told(name)).close()
    below = descendants(own.pid)
    assert own.hang_up() == 0
    assert not [child for child in below if Path(f"/proc/{child}").exists()]
    # Nor does a newcomer read a warning about origins.
    assert "allowed_origins" not in own.said


def test_it_prints_a_token_a_line_and_nothing_wider_than_it_must(dev: Dev) -> None:
    tokens = re.findall(r"^  (user_\w+) +(\S+)$", dev.said, re.MULTILINE)
    assert [user for user, _ in tokens] == ["user_alice", "user_bob"]
    assert all(token.count(".") == 2 for _, token in tokens)
    assert dev.told("Page") == dev.page


def test_the_token_command(dev: Dev, tmp_path: Path) -> None:
    done = run("token", "--data", str(dev.data), "--user", "user_alice")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout)
    elsewhere = tmp_path / "no where"
    done = run("token", "--data", str(elsewhere), "--user", "user_alice")
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: no key in {elsewhere} yet: "
        f"run `typelets-ws dev --data '{elsewhere}'` first\n"
    )


def test_data_in_use(dev: Dev) -> None:
    ports = ["--port", str(free_port()), "--admin-port", str(free_port())]
    done = run("dev", "--data", str(dev.data), *ports)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {dev.data} is in use by another typelets-ws dev (process {dev.pid}): "
        "end it, or choose another --data\n"
    )


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_port_in_use(dev: Dev, tmp_path: Path, flag: str) -> None:
    ports = {"--port": free_port(), "--admin-port": free_port(), flag: dev.port}
    flags = [str(word) for pair in ports.items() for word in pair]
    done = run("dev", "--data", str(tmp_path / "data"), *flags)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: cannot listen on 127.0.0.1 port {dev.port} (Address already in use): "
        f"choose another {flag}\n"
    )


def test_an_unusable_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "signing-key.pem").write_text("nothing")
    ports = ["--port", str(free_port()), "--admin-port", str(free_port())]
    done = run("dev", "--data", str(tmp_path), *ports)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {tmp_path}/signing-key.pem is no signing key: "
        "delete it to get a new one\n"
    )


def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("dev", "--data", str(tmp_path / "file" / "data"))
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: cannot use --data {tmp_path}/file/data: Not a directory\n"
    )


def test_serve_has_no_page_and_hands_out_no_token(
    tmp_path: Path, redis_server: RedisServer, database: Database
) -> None:
    port = free_port()
    config = tmp_path / "config.toml"
    config.write_text(f"""
        server = {{ port = {port}, drain_seconds = 0.0 }}
        admin = {{ port = 0 }}
        redis = {{ url = "{redis_server.url}" }}
        database = {{ url = "{database.url}" }}
        auth = {{ jwt_key = '''{public_pem()}''' }}
    """)
    command = [str(COMMAND), "serve", "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serve:
        try:
            assert serve.stderr is not None
            assert any('"listening"' in line for line in serve.stderr)
            for path in ("", "index.html", "client.js", "dev/token?user=user_alice"):
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/{path}", headers={"X-Typelets-Dev": "1"}
                )
                with pytest.raises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(request)
                with refused.value:
                    assert refused.value.code == 426
        finally:
            serve.terminate()
            serve.communicate()
