"""Steps for other processes, which find them by their names."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process

from pgqrs import PyWorkflow, step, workflow


def end_with_parent() -> None:
    """Let this process end as soon as its parent has ended.

    A process of a pool waits for calls on a pipe whose other end it holds open itself, so it would outlive a test run
    that is killed.
    """
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent_process().join()
    os._exit(1)


def process_pool() -> ProcessPoolExecutor:
    """Return a pool of one process that ends with this process."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)


@functools.cache
def pool():
    return process_pool()


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
