"""The garbage collector switched off, so that tests see what would be left to it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Run with the collector off; objects from before are not looked at."""
    gc.collect(1)
    gc.freeze()  # each collection would look at them for 0.2 s
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Run with the collector off; fail when it would have found anything."""
    with collector_off():
        yield
        assert gc.collect() == 0
