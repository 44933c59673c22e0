"""The state of a partition key under a crash at each write."""

from pgqrs import Admin, PyWorkflow, step, workflow
from pgqrs.testing import crash_everywhere


async def test_state_survives_a_crash_at_each_write(pgqrs_admin: Admin):
    @step
    async def added(ctx: PyWorkflow, amount: int) -> None:
        await ctx.state.set("balance", await ctx.state.get("balance", 0, type=int) + amount)

    @step(transactional=True)
    async def doubled(ctx: PyWorkflow) -> None:
        await ctx.state.set("balance", 2 * await ctx.state.get("balance", 0, type=int))

    @workflow
    async def crashing(ctx: PyWorkflow) -> list[object]:
        await ctx.state.set("balance", 1)
        await added(ctx, 2)
        await doubled(ctx)
        return [await ctx.state.get("balance")]

    assert await crash_everywhere(crashing, admin=pgqrs_admin) == [6]
