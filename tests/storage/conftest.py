"""A store and the claim connection of its queues, for tests that look below the `Admin`."""

import pytest_asyncio

from tests.support.executors import watching


@pytest_asyncio.fixture
async def store(admin):
    return await admin.store()


@pytest_asyncio.fixture
async def watch(store):
    async with watching(store) as watch:
        yield watch
