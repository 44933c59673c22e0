"""`StateSnapshot`, the values of the state of a partition key as an application reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, overload

from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.base import Codec
from pgqrs.codecs.states import decode_state
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.states.repository import StateOwner, StateRepository, StoredValue
from pgqrs.validation import check_name, validate_partition_key
from pgqrs.workflow.definition import definition_of

D = TypeVar("D")
T = TypeVar("T")


class StateSnapshot:
    """The values of a state at the time of a read, by name; `Admin.state` returns it.

    A value is decoded when it is asked for. ``dict(snapshot)`` decodes all of them.
    """

    __slots__ = ("_codec", "_owner", "_values")

    def __init__(self, codec: Codec, owner: tuple[str, str], values: Mapping[str, StoredValue]) -> None:
        self._codec = codec
        self._owner = owner
        self._values = values

    def __repr__(self) -> str:
        return f"<StateSnapshot of {self._owner[0]!r} and {self._owner[1]!r}: {', '.join(self._values)}>"

    @overload
    def get(self, name: str, default: object = None) -> Any: ...

    @overload
    def get(self, name: str, *, type: type[T]) -> T | None: ...

    @overload
    def get(self, name: str, default: D, *, type: type[T]) -> T | D: ...

    def get(self, name: str, default: object = None, *, type: object = Any) -> Any:  # noqa: A002
        """Return a value.

        Args:
            name: The name of the value.
            default: The result if there is no such value; None by default.
            type: The type with which a typed codec decodes the value; any value by default.

        Returns:
            The value, or the default.

        Raises:
            SerializationError: The value is written with another codec, or the codec cannot decode it.
        """
        found = self._values.get(name)
        if found is None:
            return default
        return decode_state(self._codec, self._owner, name, found, type)

    def keys(self) -> list[str]:
        """Return the names of the values, in order."""
        return list(self._values)

    def __getitem__(self, name: str) -> Any:
        found = self._values[name]
        return decode_state(self._codec, self._owner, name, found)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class States:
    """The states of the partition keys of a schema."""

    def __init__(self, loops: LoopStates, session: SessionOrConnection | None = None) -> None:
        self._loops = loops
        self._session = session

    async def read(self, workflow: object, partition_key: str) -> StateSnapshot:
        """Return the values of a state."""
        owner = _owner_of(workflow, partition_key)
        operations = await (await self._loops.store()).operations_for(self._session)
        values = await operations.run(lambda connection: StateRepository(connection).values(StateOwner(*owner)))
        return StateSnapshot(self._loops.codec, owner, values)

    async def delete(self, workflow: object, partition_key: str) -> int:
        """Delete a state, and return the number of its values."""
        owner = _owner_of(workflow, partition_key)
        operations = await (await self._loops.store()).operations_for(self._session)
        return await operations.run(lambda connection: StateRepository(connection).delete(StateOwner(*owner)))


def _owner_of(workflow: object, partition_key: str) -> tuple[str, str]:
    if isinstance(workflow, str):
        check_name("workflow", workflow)
        return workflow, validate_partition_key(partition_key)
    return definition_of(workflow).name, validate_partition_key(partition_key)
