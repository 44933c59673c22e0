"""A search index that follows the changes of a document, with a few runs only.

``python -m examples.debounce`` runs it. Each change submits two workflows with the newest text. The index is
written once the document was quiet for a moment, and at the latest two seconds after the first change. A summary
is made at once, and then at most once a second, with the newest text of the changes in between.
"""

import asyncio
import sys

from pgqrs import Admin, PyWorkflow, Worker, WorkflowHandle, step, workflow


@step
async def write_index(_ctx: PyWorkflow, document: int, text: str) -> str:
    return f"document {document} has {len(text.split())} words"


@workflow
async def reindex(ctx: PyWorkflow, document: int, text: str) -> str:
    return await write_index(ctx, document, text)


@workflow
async def summarize(_ctx: PyWorkflow, document: int, text: str) -> str:
    return f"summary of document {document} with {len(text.split())} words"


async def change(admin: Admin, document: int, text: str) -> tuple[WorkflowHandle[str], WorkflowHandle[str]]:
    """Submit both workflows for a change of a document."""
    value = f"document {document}"
    quiet = admin.options(unique=value, debounce=0.5, debounce_at_most=2)
    paced = admin.options(unique=value, throttle=1)
    return await quiet.enqueue(reindex, document, text), await paced.enqueue(summarize, document, text)


async def write(admin: Admin, words: int) -> tuple[set[str], set[str]]:
    """Change a document word by word, and return the different results of the two workflows."""
    text = [f"word{n}" for n in range(words)]
    handles = [await change(admin, 1, " ".join(text[: n + 1])) for n in range(words)]
    indexed = {await quiet.result() for quiet, _ in handles}
    return indexed, {await paced.result() for _, paced in handles}


async def main(words: int = 100) -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [reindex, summarize]):
            for results in await write(admin, words):
                print(f"{len(results)} runs for {words} changes:", *sorted(results), sep="\n    ")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
