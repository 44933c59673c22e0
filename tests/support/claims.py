"""Runs that a worker has claimed, without a worker: the test claims them, and decides when they go on."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from pgqrs import PyWorkflow
from pgqrs.engine.lifecycle import Parked
from pgqrs.engine.parking import RunWorker
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import Submission
from pgqrs.workflow.definition import definition_of
from tests.support.waiting import until


class Claims:
    """Claims workflows as a worker does, one at a time, when it is told to."""

    def __init__(self, admin, store, watch):
        self._admin = admin
        self.store = store
        self._watch = watch

    async def submit(self, function, *args, timeout=None):
        """Enqueue a workflow and return its id."""
        definition = definition_of(function)
        text = json.dumps({"args": args, "kwargs": {}})
        own_timeout = timeout or definition.timeout
        new = Submission(0, definition.name, text, "default", 0, None, own_timeout, None, None, new_token())
        (identity,) = await self.store.operations.submit([new])
        return identity.workflow_id

    async def run(self, function):
        """Wait until a workflow of the function is ready, claim it, and run it as far as it goes."""
        ctx, args = await self.adopt(function)
        return await function(ctx, *args)

    async def park(self, function):
        """Run a workflow of the function as `run` does, until it parks."""
        with pytest.raises(Parked):
            await self.run(function)

    async def deliver(self):
        """Give parked workflows the messages for which they wait, as a worker does; return what came of it."""
        return await self._watch.deliver()

    async def adopt(self, function):
        """Wait until a workflow of the function is ready and claim it; return its context and its arguments."""
        claimed = await until(self._claim, definition_of(function).name)
        ctx = PyWorkflow(self._admin, claimed.workflow_id, claimed.name)
        await ctx.attach_run(claimed, worker=RunWorker())
        return ctx, json.loads(claimed.input)["args"]

    async def _claim(self, name):
        found = await self._watch.run_maintenance([name], ["default"])
        if found.has_new:
            await self._watch.deliver()
        found = await self._watch.claim([name], ["default"], 1)
        return found[0] if found else None


@asynccontextmanager
async def claims(admin):
    store = await admin.store()
    watch = await store.claim_connection(lambda _queue: None)
    yield Claims(admin, store, watch)
    await watch.close()
