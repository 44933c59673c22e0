"""Creates the tables at the start; a real application has migrations."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateSchema

from examples.orders import carrier, models

CATALOGUE = [
    {"sku": "lamp", "cents": 4200, "stock": 1000},
    {"sku": "shade", "cents": 1900, "stock": 1000},
    {"sku": "stool", "cents": 7900, "stock": 1},
    {"sku": "chandelier", "cents": 99000, "stock": 1},
]

_LOCK = 7_307_201


async def create_tables(engine: AsyncEngine) -> None:
    """Create the missing tables and goods; any number of processes may do it at once."""
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        for schema, base in ((models.SCHEMA, models.Base), (carrier.SCHEMA, carrier.Base)):
            await connection.execute(CreateSchema(schema, if_not_exists=True))
            await connection.run_sync(base.metadata.create_all)
        await connection.execute(insert(models.Item).on_conflict_do_nothing(), CATALOGUE)
