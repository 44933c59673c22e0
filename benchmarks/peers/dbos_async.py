"""DBOS, async workflows and steps, called directly.

Of the documented configurations that were tried (the pool's size, the threads, `use_listen_notify`,
`start_workflow_async`), none is clearly faster than the defaults; not testing connections at every checkout
(`pool_pre_ping`) saves it a round trip for each transaction, and as many threads as connections let it use all
of them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common import Arguments, arguments, report, small_dict, timed
from dbos import DBOS

CONNECTIONS = 20


@DBOS.step()
async def one_step(number: int) -> dict[str, Any]:
    """Return the small dict."""
    return small_dict(number)


@DBOS.workflow()
async def bench(number: int, steps: int) -> dict[str, int]:
    """Run steps one after another."""
    for each in range(steps):
        await one_step(each)
    return {"number": number}


async def throughput(asked: Arguments) -> None:
    """Measure many short workflows."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS))
    DBOS(
        config={
            "name": "bench",
            "system_database_url": asked.dsn,
            "sys_db_pool_size": CONNECTIONS,
            "db_engine_kwargs": {"pool_pre_ping": False},
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    seconds = await timed(lambda number: bench(number, asked.steps), asked.workflows, asked.concurrency)
    report("dbos", seconds=seconds, workflows=asked.workflows, steps=asked.workflows * asked.steps)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(throughput(arguments()))
