"""The commands `pgqrs export` and `pgqrs import`: workflows as JSON documents."""

from __future__ import annotations

import json
from typing import Any, TextIO

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.output import print_json
from pgqrs.client.admin import Admin


@click.command()
@click.argument("workflow_id", metavar="ID", type=int)
@database_options
def export(database: DatabaseOptions, workflow_id: int) -> None:
    """Print a workflow, with its children, as a JSON document, which `pgqrs import` reads."""

    async def act(admin: Admin) -> None:
        print_json(await admin.export_workflow(workflow_id))

    database.run(act)


@click.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
@database_options
@click.option("--keep-ids", is_flag=True, help="Keep the ids of the document, if they are free.")
@click.option("--live", is_flag=True, help="Accept workflows that have not ended; workers continue them.")
def import_(database: DatabaseOptions, file: TextIO, *, keep_ids: bool, live: bool) -> None:
    """Import the workflows of a document, FILE, or of the standard input for -, and print the id of the first."""
    try:
        document: Any = json.load(file)
    except ValueError as error:
        raise click.ClickException(f"{file.name} is no JSON document: {error}.") from error

    async def act(admin: Admin) -> None:
        handle = await admin.import_workflow(document, ids="keep" if keep_ids else "new", live=live)
        click.echo(handle.id)

    database.run(act)
