"""The command `scripts/soak`."""

import asyncio
import sys
from pathlib import Path

import uvloop

from tests.chaos.topology import TOPOLOGIES
from tests.command_line import above_zero, at_least, command_line
from tests.soak.graph import graph
from tests.soak.measure import Sample, drifts
from tests.soak.run import Plan, soak


def show(one: Sample) -> None:
    """Print one sample in a line."""
    figures = "  ".join(f"{name} {value:.0f}" for name, value in one.figures.items())
    print(f"{one.at:7.0f} s  {figures}", flush=True)


def main() -> int:
    """Soak, judge, draw; returns 1 when a figure drifts or an invariant breaks."""
    parser = command_line(
        "scripts/soak",
        "Churn with everything on, and gates on what may not grow.",
        "--seconds 600",
        "--seconds 7200 --topology sentinel --graph soak.svg",
    )
    option = parser.add_argument
    option("--seconds", type=above_zero, default=120.0, help="of churn")
    option(
        "--every", type=above_zero,
        help="seconds per sample; by default 240 samples, of 1 s at least",
    )  # fmt: skip
    option("--fault", type=above_zero, default=60.0, help="seconds per fault")
    option("--failover", type=above_zero, default=180.0, help="seconds per failover")
    option("--devices", type=at_least(1), default=40, help="connected at a time")
    option("--seed", type=int, default=1, help="of all that is random")
    option("--topology", choices=TOPOLOGIES, default="single", help="of Redis")
    option("--graph", type=Path, metavar="FILE", help="write an SVG there")
    options = parser.parse_args()
    plan = Plan(
        seconds=options.seconds,
        every_s=options.every or max(1.0, options.seconds / 240),
        fault_s=options.fault,
        failover_s=options.failover,
        devices=options.devices,
        seed=options.seed,
        topology=options.topology,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(soak(plan, show))
    wrong = result.violations + drifts(result.samples)
    if options.graph:
        under = (
            f"{plan.devices} devices that come and go, hostile clients, a fault about"
            f" every {plan.fault_s:.0f} s, a failover every {plan.failover_s:.0f} s;"
            f" Redis: {plan.topology}; seed {plan.seed}"
        )
        title = f"{plan.seconds / 60:.0f} minutes of churn"
        options.graph.write_text(graph(result.samples, title, under))
    print(*(f"{count:6} {name}" for name, count in result.faults.items()), sep="\n")
    print(*wrong or ["no drift, no broken invariant"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
