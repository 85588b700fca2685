"""`python -m typelets_ws`: the same as the command `typelets-ws`."""

from .cli import run

run()
