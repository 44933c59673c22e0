"""A command that imports a file of prices, row by row, and goes on where it was interrupted.

``python -m examples.prices prices.csv`` imports the file. Press Ctrl-C in the middle and start the command again:
the rows that were imported are not imported again. A third start finds the import done, and prints its result.
"""

import asyncio
import csv
import hashlib
import os
import sys
from pathlib import Path

from pgqrs import Admin, PyWorkflow, step, workflow


async def tell_shop(_item: str, cents: int) -> int:
    """Call the API of a shop, which takes a moment, and return the price that it has now."""
    await asyncio.sleep(0.1)
    return cents


@step(key=lambda number, _row: number, retry=5)
async def put(_ctx: PyWorkflow, number: int, row: list[str]) -> int:
    item, price = row
    print(f"row {number}: {item}")
    return await tell_shop(item, round(float(price) * 100))


@workflow
async def import_prices(ctx: PyWorkflow, rows: list[list[str]]) -> int:
    return sum([await put(ctx, number, row) for number, row in enumerate(rows)])


async def import_file(admin: Admin, name: str, content: str) -> int:
    """Import a file, or go on with its import; return the sum of the prices."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    rows = list(csv.reader(content.splitlines()))
    return await admin.options(key=f"{name} {digest}").run(import_prices, rows)


async def main(name: str, content: str) -> None:
    async with Admin(os.environ.get("PGQRS_DSN", "embedded://")) as admin:
        await admin.install()
        print(f"the prices add up to {await import_file(admin, name, content)} cents")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    asyncio.run(main(path.name, path.read_text()))
