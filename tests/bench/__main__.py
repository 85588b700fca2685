"""Measure the daemon beside its baselines: scripts/bench [ROW ...]

Rows: fanout groups burst ping handshake signed updates idle storm growth; all of
them when none is named, which takes less than five minutes.

Example:    scripts/bench fanout ping --json figures.json
"""

import argparse
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .bench import Bench, Figure
from .machine import load_cores, server_core
from .report import as_json, table
from .rows_clients import handshake, ping, signed, updates
from .rows_delivery import burst, fanout, groups
from .rows_scale import growth, idle, storm

ROWS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "fanout": fanout,
    "groups": groups,
    "burst": burst,
    "ping": ping,
    "handshake": handshake,
    "signed": signed,
    "updates": updates,
    "idle": idle,
    "storm": storm,
    "growth": growth,
}
FILES = 12_000


def main() -> None:
    """Run the rows that were asked for. Exit code 1: a target was missed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="which rows; default all"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values")
    args = parser.parse_args()
    unknown = set(args.rows) - ROWS.keys()
    if unknown:
        parser.error(f"unknown row {' '.join(sorted(unknown))}; see --help")
    if shutil.which("redis-server") is None:
        # The stand-in of dev mode is slow: every figure would be nonsense.
        sys.exit("bench: redis-server is missing; it is what is measured with")
    _allow_files()
    core = server_core()
    # Children inherit it: Redis and Postgres run beside the load.
    os.sched_setaffinity(0, load_cores())
    figures: list[Figure] = []
    with Bench(quick=args.quick, core=core) as bench:
        for name in args.rows or ROWS:
            figures += ROWS[name](bench)
        bench.tell("done")
    print(table(figures))
    if args.json:
        args.json.write_text(as_json(figures, quick=args.quick) + "\n")
    sys.exit(any(figure.met is False for figure in figures))


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        sys.exit(f"bench: {FILES} open files are needed: ulimit -n {FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
