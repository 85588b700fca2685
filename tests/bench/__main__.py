"""Measure the daemon beside its baselines: scripts/bench [ROW ...]

Rows: fanout groups burst ping handshake signed updates idle storm active growth
processes returning audit gap; all of them when none is named, which takes about six
minutes. A row that fails costs only itself.

Examples:   scripts/bench fanout ping --json figures.json
            scripts/bench --charts tests/bench --readme README.md
            scripts/bench --peer 'relay=python relay.py {port} {redis} {prefix}'
            scripts/bench --centrifugo /usr/local/bin/centrifugo
"""

import argparse
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .bench import Bench
from .centrifugo import centrifugo_rows
from .charts import charts
from .cores import layout
from .figure import Figure
from .load import RefusedError
from .peers import PeerCommand, peer_rows
from .report import LEGEND, as_json, readme, table
from .rows_clients import handshake, ping, signed, updates
from .rows_delivery import burst, fanout, groups
from .rows_growth import growth
from .rows_processes import processes
from .rows_recovery import audit, gap, returning
from .rows_scale import active, idle, storm

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
    "active": active,
    "growth": growth,
    "processes": processes,
    "returning": returning,
    "audit": audit,
    "gap": gap,
}
FILES = 16_000


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
    parser.add_argument(
        "--full", action="store_true", help="audit: with 10,000 users in fact"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="put the table in place of the one between its marks",
    )
    parser.add_argument(
        "--peer",
        action="append",
        type=PeerCommand.named,
        default=[],
        metavar="NAME=COMMAND",
        help="beside another server: see tests/bench/peers.py. Without a ROW only that",
    )
    parser.add_argument(
        "--centrifugo",
        metavar="PATH",
        help="beside this binary of Centrifugo. Without a ROW only that",
    )
    parser.add_argument("--charts", type=Path, metavar="DIR", help="draw SVG files")
    args = parser.parse_args()
    unknown = set(args.rows) - ROWS.keys()
    if unknown:
        parser.error(f"unknown row {' '.join(sorted(unknown))}; see --help")
    if shutil.which("redis-server") is None:
        # The stand-in of dev mode is slow: every figure would be nonsense.
        sys.exit("bench: redis-server is missing; it is what is measured with")
    _allow_files()
    cores = layout(os.sched_getaffinity(0))
    # Children inherit it: Redis and Postgres run beside the load.
    os.sched_setaffinity(0, cores.load)
    figures: list[Figure] = []
    with Bench(quick=args.quick, cores=cores, full=args.full) as bench:
        peers = {one.name: partial(peer_rows, peer=one) for one in args.peer}
        if args.centrifugo:
            peers["centrifugo"] = partial(centrifugo_rows, binary=args.centrifugo)
        named = args.rows or (() if peers else ROWS)
        rows = {name: ROWS[name] for name in named} | peers
        failed = False
        for name, row in rows.items():
            try:
                figures += row(bench)
            except (RefusedError, OSError) as error:
                failed = True
                bench.tell(f"{name} failed: {error!r:.300}\n")
        bench.tell("done")
    print(table(figures), LEGEND, sep="\n\n")
    if args.readme:
        text = args.readme.read_text(encoding="utf-8")
        args.readme.write_text(readme(text, figures), encoding="utf-8")
    if args.charts:
        args.charts.mkdir(parents=True, exist_ok=True)
        for name, picture in charts(figures).items():
            Path(args.charts, f"{name}.svg").write_text(picture, encoding="utf-8")
    if args.json:
        args.json.write_text(as_json(figures, quick=args.quick) + "\n")
    sys.exit(failed or any(figure.met is False for figure in figures))


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        sys.exit(f"bench: {FILES} open files are needed: ulimit -n {FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
