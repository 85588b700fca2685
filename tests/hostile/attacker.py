"""One attack as a process: described on standard input, ends after its time.

Prints a line when it begins; ends itself when its time is over, come what may.
"""

import json
import signal
import sys
import time
from contextlib import suppress

from . import ALL
from .clients import ATTACKS, Target


def main() -> None:
    """Run the attack of standard input."""
    order = json.loads(sys.stdin.readline())
    signal.alarm(int(order["seconds"]) + 5)
    target = Target(order["port"], order["tokens"])
    target.until = time.monotonic() + order["seconds"]
    print("begun", flush=True)
    while not target.over:
        with suppress(OSError):
            ATTACKS[order["name"]].run(target)
        target.drop()


if __name__ == "__main__":
    assert ALL
    main()
