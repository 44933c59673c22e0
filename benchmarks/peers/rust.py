"""The Rust original, pgqrs 0.12.0 from PyPI, used as its documentation says, with its own pool of connections."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from common import Arguments, arguments, report, step_functions, timed

import pgqrs
from pgqrs.decorators import step, workflow


def spelled(dsn: str) -> str:
    """Return a DSN in the form of its driver, with the socket's folder as the host."""
    parts = urlsplit(dsn)
    return f"postgresql://postgres@{quote(parse_qs(parts.query)['host'][0], safe='')}{parts.path}"


async def throughput(asked: Arguments) -> None:
    """Measure many short workflows."""
    functions = step_functions(step, asked.steps)

    @workflow
    async def bench(ctx: Any, number: int) -> dict[str, int]:
        for function in functions:
            await function(ctx, number)
        return {"number": number}

    admin = pgqrs.admin(await pgqrs.connect(spelled(asked.dsn)))
    await admin.install()

    async def run(number: int) -> None:
        await bench(await admin.create_workflow("bench", number), number)

    seconds = await timed(run, asked.workflows, asked.concurrency)
    report("pgqrs", seconds=seconds, workflows=asked.workflows, steps=asked.workflows * asked.steps)


if __name__ == "__main__":
    asyncio.run(throughput(arguments()))
