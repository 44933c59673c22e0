"""Makes the tables at the start; a real application has migrations for that."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateSchema

from examples.orders import carrier, models

CATALOGUE = [
    {"sku": "lamp", "cents": 4200, "stock": 1000},
    {"sku": "shade", "cents": 1900, "stock": 1000},
    {"sku": "chandelier", "cents": 99000, "stock": 1},
]

_LOCK = 7_307_201


async def create_tables(engine: AsyncEngine) -> None:
    """Make what is missing of the tables and the catalogue; any number of processes may do that at once."""
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        for schema, base in ((models.SCHEMA, models.Base), (carrier.SCHEMA, carrier.Base)):
            await connection.execute(CreateSchema(schema, if_not_exists=True))
            await connection.run_sync(base.metadata.create_all)
        await connection.execute(insert(models.Item).on_conflict_do_nothing(), CATALOGUE)
