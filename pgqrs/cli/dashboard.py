"""The command `pgqrs dashboard`."""

from __future__ import annotations

from contextlib import suppress

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.client.admin import Admin

SHUTDOWN = 1
"""Seconds that open requests, such as the streams of live pages, have to end after a signal."""


@click.command()
@database_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port.")
@click.option("--actions", is_flag=True, help="Allow actions, too; without it the dashboard is read-only.")
@click.option("--show-sealed", is_flag=True, help="Show values that the codec of --admin encrypts.")
def dashboard(database: DatabaseOptions, *, host: str, port: int, actions: bool, show_sealed: bool) -> None:
    """Serve the dashboard to the browsers of this machine, until Ctrl-C.

    Requests of other machines are refused. To give others access, mount the dashboard in an application that knows
    its users: see docs/dashboard.md.
    """
    try:
        import uvicorn  # noqa: PLC0415  # an extra of the package

        from pgqrs.dashboard import Access, local  # noqa: PLC0415
        from pgqrs.dashboard import dashboard as application  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException("`pgqrs dashboard` needs pip install 'pgqrs[dashboard]'.") from error

    async def act(admin: Admin) -> None:
        app = application(admin, local(Access.ALL if actions else Access.READ), show_sealed=show_sealed)
        config = uvicorn.Config(app, host, port, log_level="warning", timeout_graceful_shutdown=SHUTDOWN)
        server = uvicorn.Server(config)
        with config.bind_socket() as socket:
            name, own = socket.getsockname()[:2]
            click.echo(f"The dashboard is on http://{f'[{name}]' if ':' in name else name}:{own}/")
            await server.serve([socket])

    with suppress(KeyboardInterrupt):
        database.run(act)
