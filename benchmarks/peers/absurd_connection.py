"""The clients and the workers of absurd, the same in all works."""

from __future__ import annotations

import asyncio

import psycopg
from absurd_sdk import AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL
from common import Arguments

CLIENTS = 25
POLL_SECONDS = 0.02


def working(clients: list[AsyncAbsurd], concurrency: int) -> list[asyncio.Task[None]]:
    """Start each client's worker, with its share of the concurrency."""
    share = max(1, concurrency // len(clients))
    return [
        asyncio.create_task(client.start_worker(concurrency=share, poll_interval=POLL_SECONDS))
        for client in clients
    ]


async def install(asked: Arguments) -> None:
    """Create the tables and the queue."""
    with psycopg.connect(asked.dsn, autocommit=True) as connection:
        connection.execute(BUNDLED_SCHEMA_SQL)
    client = AsyncAbsurd(asked.dsn)
    await client.create_queue()
    await client.close()
