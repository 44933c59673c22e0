"""Runs that a worker has claimed, without a worker: the test claims them, and decides when they go on."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

from pgqrs import PyWorkflow
from pgqrs.storage.journal.creation import Submission
from pgqrs.storage.queries.tokens import new_token
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

    async def adopt(self, function):
        """Wait until a workflow of the function is ready and claim it; return its context and its arguments."""
        claimed = await until(self._claim, definition_of(function).name)
        ctx = PyWorkflow(self._admin, claimed.workflow_id, claimed.name)
        await ctx.attach_run(claimed)
        return ctx, json.loads(claimed.input)["args"]

    async def _claim(self, name):
        await self._watch.run_maintenance([name], ["default"])
        found = await self._watch.claim([name], ["default"], 1)
        return found[0] if found else None


@asynccontextmanager
async def claims(admin):
    store = await admin.store()
    watch = await store.claim_connection(lambda _queue: None)
    yield Claims(admin, store, watch)
    await watch.close()
