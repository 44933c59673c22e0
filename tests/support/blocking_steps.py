"""Steps for other processes, which find them by their names."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from pgqrs import PyWorkflow, step, workflow


@functools.cache
def pool():
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


@step(executor=pool)
def heavy(number: int, *, plus: int = 0) -> list:
    return [number * number + plus, os.getpid()]


@step(executor=pool)
def refuses(text: str) -> None:
    raise LookupError(text)


@step(executor=pool)
def dies() -> None:
    os._exit(1)


class Holder:
    @staticmethod
    @step(executor=pool, key=lambda number: number)
    def nested(number: int) -> int:
        return number + 1


@workflow
async def computing(ctx: PyWorkflow, number: int) -> list:
    return [*await heavy(ctx, number, plus=1), await Holder.nested(ctx, number)]
