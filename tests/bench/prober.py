"""One client that updates its note again and again, and how long each update took.

It is a process of its own: the load beside it would delay it in this one.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from typing import Self

import psycopg

from .bench import Bench
from .load import frame
from .machine import Child

__all__ = ["Prober"]

USER = "prober"
NOTE = "00000000-0000-4000-b000-000000000001"
PAUSE_S = 0.02
TIMEOUT_S = 30.0


class Prober:
    """Updates a note of its own on `child` every 20 ms, while it is entered."""

    def __init__(self, bench: Bench, child: Child) -> None:
        with psycopg.connect(bench.database_url, autocommit=True) as db:
            db.execute(
                "INSERT INTO users (id, email) VALUES (%s, '') ON CONFLICT DO NOTHING",
                [USER],
            )
            db.execute(
                "INSERT INTO notes (id, user_id, title) VALUES (%s, %s, '')"
                " ON CONFLICT DO NOTHING",
                [NOTE, USER],
            )
        script = [
            [said.decode("latin-1"), answer.decode()]
            for said, answer in bench.device(USER)
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps([child.port, script])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.latencies(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def forget(self) -> None:
        """Count from now on."""
        self._ask()

    def latencies(self, seconds: float) -> list[float]:
        """Seconds of each update since the last call, after so many more seconds."""
        if seconds:
            self.forget()
            time.sleep(seconds)
        return self._ask()

    def _ask(self) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the client that updates a note has ended")
        return [float(value) for value in json.loads(line)]


def _main() -> None:
    port, script = json.loads(sys.argv[1])
    took: list[float] = []
    threading.Thread(target=_answer, args=(took,), daemon=True).start()
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        for said, answer in script:
            sock.sendall(said.encode("latin-1"))
            _await(sock, answer.encode())
        update = frame(
            b'{"type":"note_update","noteId":"%s","changes":{"content":"c"}}'
            % NOTE.encode()
        )
        while True:
            began = time.monotonic()
            sock.sendall(update)
            _await(sock, b"note_update_success")
            took.append(time.monotonic() - began)
            time.sleep(PAUSE_S)


def _await(sock: socket.socket, words: bytes) -> None:
    heard = b""
    while words not in heard:
        data = sock.recv(65_536)
        if not data:
            raise RuntimeError(f"closed after {heard!r}")
        heard += data


def _answer(took: list[float]) -> None:
    for _ in sys.stdin:
        count = len(took)
        print(json.dumps(took[:count]), flush=True)
        del took[:count]


if __name__ == "__main__":
    _main()
