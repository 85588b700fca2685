"""Attacks on a real daemon, measured by an honest client beside them.

Each is a test here, and `scripts/attack` runs them longer and prints a table.
"""

from . import attacks

__all__ = ["ALL"]

ALL = (attacks,)
"""The modules with attacks; importing them fills `clients.ATTACKS`."""
