"""Calls of an API that allows 100 calls a minute.

``python -m examples.api_rate`` runs it. The rate of the queue keeps the calls of all workers together to 100 a
minute, ten of them at once. The API answers 429 if other clients have used the minute up; that call is put off by
the time that the answer names, and holds no slot meanwhile.
"""

import asyncio
import sys
from http import HTTPStatus

from pgqrs import Admin, PyWorkflow, Rate, RetryPolicy, TransientError, Worker, step, workflow

QUEUE = "converter"
RATE = Rate(100, per=60, burst=10)
REFUSED_ONCE = {3, 13}


async def post(page: int, attempt: int) -> tuple[int, float]:
    """Stand in for an HTTP client: return a status, and the seconds of the header ``Retry-After``."""
    if page in REFUSED_ONCE and attempt == 1:
        return HTTPStatus.TOO_MANY_REQUESTS, 2.0
    return HTTPStatus.OK, 0.0


@step(retry=RetryPolicy(attempts=5, initial=1.0))
async def convert(ctx: PyWorkflow, page: int) -> str:
    status, retry_after = await post(page, ctx.attempt)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise TransientError(f"the API refuses page {page}", retry_after=retry_after)
    return f"page {page} in attempt {ctx.attempt}"


@workflow
async def conversion(ctx: PyWorkflow, page: int) -> str:
    return await convert(ctx, page)


async def main(pages: int = 20) -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        await admin.set_queue(QUEUE, rate=RATE, concurrency=5)
        async with Worker(admin, [conversion], [QUEUE]):
            handles = await admin.options(queue=QUEUE).enqueue_many(conversion, [(page,) for page in range(pages)])
            for each in handles:
                print(await each.result())


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
