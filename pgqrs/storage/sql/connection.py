"""The protocol of a connection that executes queries."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import CursorResult, Executable, ScalarResult


class Connection(Protocol):
    """A connection in a transaction: an `AsyncConnection`, or the caller's connection with pgqrs's schema."""

    async def execute(self, statement: Executable, parameters: Any = None, /) -> CursorResult[Any]:
        """Execute a statement and return its result."""
        ...

    async def scalar(self, statement: Executable, parameters: Any = None, /) -> Any:
        """Execute a statement and return the first value of its first row, None without a row."""
        ...

    async def scalars(self, statement: Executable, parameters: Any = None, /) -> ScalarResult[Any]:
        """Execute a statement and return the first value of each row."""
        ...
