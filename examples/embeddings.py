"""Texts that are embedded in batches of up to 100, although each is submitted, and awaited, by itself.

``python -m examples.embeddings`` runs it. One run calls the model for many texts. Each text has its own handle.
"""

import asyncio
import sys
from hashlib import sha256

from pgqrs import Admin, Batch, PyWorkflow, Worker, step, workflow


@step
async def call_model(_ctx: PyWorkflow, texts: list[str]) -> list[list[int]]:
    """Stand for a model that takes many texts in one call."""
    await asyncio.sleep(0.01)
    return [list(sha256(each.encode()).digest()[:4]) for each in texts]


@workflow(batch=Batch(100, within=0.5))
async def embed(ctx: PyWorkflow, texts: list[str]) -> list[list[int]]:
    return await call_model(ctx, texts)


@workflow
async def index(ctx: PyWorkflow, document: str) -> int:
    """Embed the sentences of a document, together with those of other documents."""
    sentences = [await ctx.start(embed, each) for each in document.split(".")]
    return len(await ctx.gather(*sentences))


async def embed_all(admin: Admin, count: int) -> int:
    """Embed texts and a document, and return the number of calls of the model."""
    handles = await admin.enqueue_many(embed, [(f"text {number}",) for number in range(count)])
    document = await admin.enqueue(index, "One. Two. Three")
    vectors = await asyncio.gather(*(each.result() for each in handles))
    print(vectors[0], "and", await document.result(), "sentences")
    return sum(each.name == "embed/batch" for each in await admin.list_workflows(limit=2 * count + 10))


async def main(count: int = 250) -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [embed, index]):
            print(f"{count + 3} texts, {await embed_all(admin, count)} calls of the model")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
