"""`typelets-ws schema`: the protocol as a document for generators."""

import json
from typing import Final

import click

from .. import __version__
from .asyncapi import asyncapi
from .json_schema import json_schema
from .typescript import typescript

__all__ = ["schema_command"]

FORMATS: Final = {
    "asyncapi": lambda: json.dumps(asyncapi(__version__), indent=2),
    "json-schema": lambda: json.dumps(json_schema(), indent=2),
    "typescript": lambda: typescript(__version__).rstrip("\n"),
}


@click.command("schema")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    default="asyncapi",
    show_default=True,
)
def schema_command(kind: str) -> None:
    """Print the protocol: messages, events, errors and close codes.

    \b
    Example:    typelets-ws schema --format typescript > protocol.ts
    """
    click.echo(FORMATS[kind]())
