"""The command `scripts/chaos`."""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import uvloop

from tests.chaos.faults import ScheduledFault, plan
from tests.chaos.play import RunResult, Size, play
from tests.chaos.shortest import shortest
from tests.chaos.stretches import Stretch
from tests.chaos.topology import TOPOLOGIES
from tests.command_line import above_zero, at_least, command_line


def run(seed: int, size: Size, schedule: Sequence[ScheduledFault]) -> RunResult:
    """One run on the loop that production uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(play(seed, size, schedule))


def reduced(
    seed: int,
    size: Size,
    schedule: Sequence[ScheduledFault],
    last: Stretch,
    runs: int,
) -> tuple[Size, Sequence[ScheduledFault]]:
    """The shortest part of the schedule that fails; prints each on the way.

    The faults since the last rest are tried alone first.
    """

    def fails(size: Size, left: Sequence[ScheduledFault]) -> bool:
        found = bool(run(seed, size, left).violations)
        if found:
            print(f"  still fails: {','.join(map(str, left))}", flush=True)
        return found

    alone = replace(size, seconds=last.seconds)
    if last.begin_s and fails(alone, last.faults):
        size, schedule = alone, last.faults
    return size, shortest(schedule, partial(fails, size), runs)


def main() -> int:
    """Play seed after seed until the time is over; returns the exit code."""
    options = arguments()
    size = Size(
        daemons=options.daemons,
        users=max(2, options.devices // 4),
        devices=options.devices,
        hostile=max(3, options.devices // 12),
        seconds=options.round,
        topology=options.topology,
        rest_every_s=options.rest_every,
    )
    end, seed, totals = time.monotonic() + options.seconds, options.seed, Counter[str]()
    while True:
        schedule = options.schedule or plan(
            random.Random(seed), size.seconds, options.fault
        )
        print(f"seed {seed}: {len(schedule)} faults", flush=True)
        try:
            result = run(seed, size, schedule)
        except BaseException:
            print(again(seed, size, schedule), flush=True)
            raise
        totals += result.counts
        totals.update(runs=1, rests=result.rests)
        print(
            f"seed {seed}: {len(result.violations)} violations, {result.rests} rests, "
            f"equal after at most {result.equal_s:.1f} s",
            flush=True,
        )
        if result.violations:
            print(*result.violations, sep="\n")
            return failed(options, seed, size, schedule, result)
        if time.monotonic() >= end or options.schedule:
            break
        seed += 1
    print(*(f"{count:8} {name}" for name, count in sorted(totals.items())), sep="\n")
    return 0


def failed(
    options: argparse.Namespace,
    seed: int,
    size: Size,
    schedule: Sequence[ScheduledFault],
    result: RunResult,
) -> int:
    """Print how to play a failed run again, up to the rest that failed."""
    last = result.last
    assert last is not None
    size = replace(size, seconds=last.begin_s + last.seconds)
    schedule = [entry for entry in schedule if entry.at < size.seconds] or schedule
    if last.begin_s:
        since = ",".join(map(str, last.faults))
        print(f"rest {result.rests} failed; faults since the one before: {since}")
    if options.reduce:
        size, schedule = reduced(seed, size, schedule, last, options.runs)
    print(again(seed, size, schedule))
    return 1


def again(seed: int, size: Size, schedule: Sequence[ScheduledFault]) -> str:
    """The command that plays the same world and the same faults."""
    return (
        f"again: scripts/chaos --seed {seed} --round {size.seconds:g}"
        f" --daemons {size.daemons} --devices {size.devices}"
        f" --topology {size.topology} --rest-every {size.rest_every_s:g}"
        f" --schedule {','.join(map(str, schedule))}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command_line(
        "scripts/chaos",
        "Faults at random against real daemons, Redis and Postgres.",
        "--seed 1 --round 30",
        "--seconds 3600 --daemons 4 --devices 240 --topology cluster",
        "--seed 7 --reduce",
    )
    count = at_least(1)
    option = parser.add_argument
    option("--seed", type=int, default=random.randrange(10**6), help="of the first run")
    option(
        "--seconds", type=at_least(0.0), default=0.0,
        help="new runs until so many have passed; one run by default",
    )  # fmt: skip
    option("--round", type=above_zero, default=10.0, help="seconds of faults in a run")
    option(
        "--rest-every", type=above_zero, default=60.0,
        help="seconds of faults between rests",
    )  # fmt: skip
    option("--fault", type=above_zero, default=0.9, help="seconds per fault")
    option("--daemons", type=count, default=2, help="processes")
    option("--devices", type=count, default=24, help="of all kinds together")
    option("--topology", choices=TOPOLOGIES, default="single", help="of Redis")
    option("--schedule", type=schedule_of, help="play these faults, as printed")
    option("--reduce", action="store_true", help="find the shortest that still fails")
    option("--runs", type=count, default=40, help="at most, to reduce one")
    return parser.parse_args()


def schedule_of(text: str) -> list[ScheduledFault]:
    """A schedule as `again` prints it."""
    try:
        return [ScheduledFault.parse(entry) for entry in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
