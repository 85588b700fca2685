"""The settings in force, shared by all parts that follow a reload.

Invariant: `current` is replaced as a whole, never changed in place. Parts read it at
each use and keep no section of it, so a reload needs no list of parts to notify.
Tested by tests/e2e/test_reload.py.
"""

from .model import Config

__all__ = ["LiveConfig"]


class LiveConfig:
    """Holds one `Config`; `Daemon.reconfigure` replaces it."""

    __slots__ = ("current",)

    def __init__(self, config: Config) -> None:
        self.current = config
