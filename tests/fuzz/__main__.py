"""The command `scripts/fuzz`."""

import random
import sys
import time

from tests.command_line import at_least, command_line
from tests.fuzz.inputs import generator
from tests.fuzz.targets import TARGETS

REPORT_S = 10.0


def main() -> int:
    parser = command_line(
        "scripts/fuzz",
        "Random inputs for everything that reads text of strangers; counts them.",
        "--seed 7",
        "messages --count 10000000",
    )
    option = parser.add_argument
    option("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all")
    option("--count", type=at_least(1), default=100_000, help="inputs per target")
    option("--seed", type=int, default=random.randrange(2**32), help="of all inputs")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(f"seed {arguments.seed}", flush=True)
    total = 0
    for name in arguments.targets or TARGETS:
        total += run(name, arguments.seed, arguments.count)
    print(f"{total:,} inputs, no failure")
    return 0


def run(name: str, seed: int, count: int) -> int:
    """Try `count` inputs; the one that fails is named by its seed."""
    target, started = TARGETS[name], time.monotonic()
    reported = started
    for number in range(count):
        try:
            target(generator(seed, number))
        except BaseException:
            print(f"{name}: input {number} of seed {seed} fails", flush=True)
            raise
        if number % 1_000 == 0 and time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            print(f"{name}: {number:,} so far", flush=True)
    rate = count / max(time.monotonic() - started, 1e-9)
    print(f"{name}: {count:,} inputs, {rate:,.0f} a second", flush=True)
    return count


if __name__ == "__main__":
    sys.exit(main())
