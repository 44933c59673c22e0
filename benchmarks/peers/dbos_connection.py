"""The connection of DBOS, the same in all works."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from common import Arguments
from dbos import DBOS

CONNECTIONS = 20
QUEUE = "bench"
POLL_SECONDS = 0.1


def launch(asked: Arguments, executor_id: str, queues: tuple[str, ...] = ()) -> None:
    """Connect as an executor that listens to these queues."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS))
    DBOS(
        config={
            "name": "bench",
            "system_database_url": asked.dsn,
            "sys_db_pool_size": CONNECTIONS,
            "db_engine_kwargs": {"pool_pre_ping": False},
            "log_level": "ERROR",
            "executor_id": executor_id,
        }
    )
    DBOS.listen_queues(queues)
    DBOS.launch()
