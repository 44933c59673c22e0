"""Steps that fail as they are told to, and what was executed of them."""

from __future__ import annotations

import pytest

from pgqrs import PyWorkflow, step, workflow


class Scenario:
    """Steps that fail as often as they are told to, and a record of what was executed."""

    def __init__(self):
        self.executed = []
        self.failures = {}

    def step(self, name, *failures, body=None):
        """Return a step that raises these errors one after the other, then runs `body`, then succeeds."""
        remaining = self.failures[name] = list(failures)

        @step(id=name)
        async def each(ctx: PyWorkflow, *args) -> str:
            self.executed.append(name)
            if body is not None:
                await body(ctx)
            if remaining:
                raise remaining.pop(0)
            return name

        return each

    def since(self):
        """Return what was executed since the last call."""
        executed, self.executed = self.executed, []
        return executed

    async def run_twice(self, admin, body, *, first=Exception, second=None):
        """Run `body` as a workflow twice; return what was executed in each run."""
        wf = workflow(name="wf")(body)
        ctx = await admin.create_workflow("wf")
        with pytest.raises(first):
            await wf(ctx)
        one = self.since()
        if second is None:
            await wf(ctx)
        else:
            with pytest.raises(second):
                await wf(ctx)
        return one, self.since()
