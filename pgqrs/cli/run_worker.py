"""The command `pgqrs worker`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.targets import collected, look_here
from pgqrs.cli.worker_options import served_queues, set_up_logging
from pgqrs.client.admin import Admin
from pgqrs.types import DEFAULT_QUEUE
from pgqrs.worker.worker import Worker


@click.command()
@click.argument("targets", metavar="MODULE[:NAME[,NAME]]...", nargs=-1, required=True)
@database_options
@click.option(
    "--queue",
    "queues",
    metavar="NAME[=SHARE]",
    callback=served_queues,
    multiple=True,
    default=[DEFAULT_QUEUE],
    show_default=True,
    help="A queue to serve, as in mail; or, as in mail=20, with the maximum of its workflows that run in this "
    "process at once. Repeat the option for further queues.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Maximum workflows that run in this process at once; by default 100, or the sum of the shares.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that executing steps may take to end after the worker receives a signal to stop.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the log as JSON, one object a line.")
def worker(
    database: DatabaseOptions,
    targets: tuple[str, ...],
    *,
    queues: Sequence[str] | Mapping[str, int],
    concurrency: int | None,
    grace: float,
    as_json: bool,
) -> None:
    """Run the workflows of modules, until SIGTERM or SIGINT.

    For each MODULE, as in `shop.orders`, the worker runs all functions that are decorated with @workflow, or only
    the named functions, as in `shop.orders:send,bill`. The first signal starts a drain: executing steps may end,
    and other workers run the remaining work. A second signal stops the worker at once.
    """
    set_up_logging(as_json=as_json)
    look_here()
    workflows = collected(targets)

    async def work(admin: Admin) -> None:
        await Worker(admin, workflows, queues, concurrency, grace=grace).run()

    database.run(work)
