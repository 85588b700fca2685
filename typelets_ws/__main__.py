"""`python -m typelets_ws`: the same as the command `typelets-ws`."""

from .cli import main

main(prog_name="typelets-ws")
