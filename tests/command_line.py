"""Command lines of the programs that prove the daemon: one shape of `--help`.

Each has an example, and refuses by name a number with which it would prove nothing.
"""

import argparse
from collections.abc import Callable
from typing import TypeVar

__all__ = ["above_zero", "at_least", "command_line"]

Number = TypeVar("Number", int, float)


def command_line(
    name: str, description: str, *examples: str
) -> argparse.ArgumentParser:
    """A parser for the command `name`; `examples` are the arguments of one each."""
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog="\n".join(
            ["examples:", *(f"  {name} {each}".rstrip() for each in examples)]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def at_least(least: Number) -> Callable[[str], Number]:
    """A type for `add_argument`: a number of the same kind, not below `least`."""

    def read(text: str) -> Number:
        try:
            number = type(least)(text)
        except ValueError:
            number = None
        # Written so that it refuses nan as well.
        if number is None or not number >= least:
            kind = "whole number" if isinstance(least, int) else "number"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {kind} of at least {least}"
            )
        return number

    return read


def above_zero(text: str) -> float:
    """A type for `add_argument`: a time (s) or a share that is more than nothing."""
    number = at_least(0.0)(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and finite")
    return number
