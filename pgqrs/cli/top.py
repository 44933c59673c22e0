"""The command `pgqrs top`: queues, workers and the latest failures, in a view that refreshes itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from pgqrs.cli import health, queues
from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.output import escaped
from pgqrs.cli.workflows import HEAD, row
from pgqrs.client.admin import Admin

if TYPE_CHECKING:
    from rich.console import RenderableType

FAILURES = 10
"""Maximum failed workflows of the view."""


@click.command()
@database_options
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Print the view once.")
def top(database: DatabaseOptions, *, interval: float, once: bool) -> None:
    """Show the queues, the workers and the latest failures, until Ctrl-C."""
    try:
        from rich.console import Console  # noqa: PLC0415  # an extra of the package
        from rich.live import Live  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException("`pgqrs top` needs rich: pip install 'pgqrs[cli]'.") from error

    async def act(admin: Admin) -> None:
        console = Console()
        if once:
            console.print(await _view(admin))
            return
        with Live(await _view(admin), console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                await asyncio.sleep(interval)
                live.update(await _view(admin), refresh=True)

    try:
        database.run(act)
    except KeyboardInterrupt:
        click.echo("")


async def _view(admin: Admin) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415  # an extra of the package

    found = await admin.list_queues()
    workers = await admin.list_workers()
    failures = await admin.list_workflows(status="ERROR", limit=FAILURES)
    return Group(
        _table("Queues", queues.HEADINGS, [queues.row(each) for each in found]),
        _table("Workers", health.HEAD, [health.row(each) for each in workers]),
        _table("Latest failures", HEAD, [row(each) for each in failures]),
    )


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Any:
    from rich.table import Table  # noqa: PLC0415  # an extra of the package
    from rich.text import Text  # noqa: PLC0415

    table = Table(*head, title=title, title_justify="left", expand=True)
    for each in rows:
        table.add_row(*(Text(escaped(cell)) for cell in each))
    return table
