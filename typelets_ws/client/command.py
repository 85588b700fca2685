"""`typelets-ws client`: the JavaScript client as a file."""

from importlib.resources import files

import click

__all__ = ["client_command"]


@click.command("client")
@click.option("--types", is_flag=True, help="The TypeScript declarations instead.")
def client_command(types: bool) -> None:
    """Print the JavaScript client, one module without dependencies.

    \b
    Example:    typelets-ws client > typelets-client.mjs
                typelets-ws client --types > typelets-client.d.mts
    """
    name = "typelets-client.d.ts" if types else "typelets-client.js"
    path = files(__package__) / name
    click.echo(path.read_text("utf-8"), nl=False)
