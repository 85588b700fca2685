"""The command `scripts/attack`."""

import asyncio
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.command_line import above_zero, command_line
from tests.postgres import Database
from typelets_ws.dev.postgres import Postgres
from typelets_ws.dev.redis import RedisServer

from . import ALL
from .clients import ATTACKS
from .measure import MEMORY_MIB, Measurement, measure, victim

HEAD = """\
| attack | CPU | memory before / peak / after, MiB | honest p50 idle / during, ms \
| honest p99 idle / during, ms | honest handshakes refused |
|---|--:|--:|--:|--:|--:|"""


def row(name: str, result: Measurement) -> str:
    """One line of the table."""
    memory = f"{result.before:.0f} / {result.peak:.0f} / {result.after:.0f}"
    p50 = f"{result.idle_p50 * 1000:.1f} / {result.p50 * 1000:.1f}"
    p99 = f"{result.idle_p99 * 1000:.1f} / {result.p99 * 1000:.1f}"
    refused = f"{result.refused} of {result.handshakes}"
    return f"| {name} | {result.cpu_share:.0%} | {memory} | {p50} | {p99} | {refused} |"


def main() -> int:
    """Run the attacks whose names contain one of the words; all without words."""
    parser = command_line(
        "scripts/attack",
        "Attack a daemon, and measure an honest client beside it: the README's table.",
        "--seconds 5",
        "pongs bombs",
    )
    option = parser.add_argument
    option("words", nargs="*", help="parts of the names of attacks; all")
    option("--seconds", type=above_zero, default=20.0, help="of each attack")
    args = parser.parse_args()
    assert ALL
    names = [n for n in ATTACKS if not args.words or any(w in n for w in args.words)]
    if not names:
        print("No attack has such a name:", *ATTACKS, sep="\n  ", file=sys.stderr)
        return 2
    failed = False
    with (
        tempfile.TemporaryDirectory() as place,
        RedisServer() as redis,
        Postgres(Path(place)) as postgres,
        closing(Database(postgres)) as database,
    ):
        database.script("schema.sql")
        print(HEAD, flush=True)
        for name in names:
            with victim(redis.url, database.url, ATTACKS[name]) as target:
                result = asyncio.run(measure(target, ATTACKS[name], args.seconds))
            print(row(name, result), flush=True)
            grown = result.after - result.before
            failed |= not result.bearable or grown > MEMORY_MIB
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
