"""`Receive`, `Event`, `Sleep` and children: the branches of `PyWorkflow.select`, of which the first wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar, cast

from pgqrs.codecs.base import codec_at, seal_error
from pgqrs.codecs.failures import dump_error
from pgqrs.codecs.messages import decode_emitted
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.message_waits import MessageWait, wait_for_message
from pgqrs.engine.replay.fingerprint import fingerprint_of
from pgqrs.engine.run import Run
from pgqrs.errors import ConfigurationError, StepMismatchError, WaitTimeoutError
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.sql.addresses import event_address
from pgqrs.validation import check_name, escaped, parse_seconds
from pgqrs.workflow.children import Child, address_of
from pgqrs.workflow.messaging.messages import NO_DEFAULT, Current, Receivable, as_receivable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receive(Generic[T]):
    """The branch of a select that the oldest message of a topic wins, as `PyWorkflow.receive` receives it.

    Attributes:
        topic: The topic or the update, or the name of a topic for values of any type.
    """

    topic: Receivable[T] | str


@dataclass(frozen=True, slots=True)
class Event:
    """The branch of a select that an event of the schema wins, as `PyWorkflow.wait_event` waits for it.

    Attributes:
        name: The name of the event.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """The branch of a select that wins after a delay.

    Attributes:
        delay: Seconds, or a `timedelta`, from the first call of the select.
    """

    delay: float | timedelta


Branch: TypeAlias = Receive[Any] | Event | Sleep | Child[Any]
"""A branch of a select: a frozen description, which holds nothing and waits for nothing by itself."""


class Address:
    """The address of a branch, and the value of the message that wins it."""

    def __init__(self, current: Current, run: Run, branch: Receive[Any] | Event | Child[Any]) -> None:
        self._current = current
        self._run = run
        self._branch = branch
        if isinstance(branch, Child):
            self.text = address_of(run, branch.step_id)
        elif isinstance(branch, Event):
            check_name("event", branch.name)
            self.text = event_address(branch.name)
        else:
            self.text = as_receivable(branch.topic).address(run.workflow_id)

    def value(self, step_id: str, outcome: StoredOutcome) -> Any:
        """Return the value of the message that is the outcome of a step, or raise the recorded error."""
        run, branch = self._run, self._branch
        if isinstance(branch, Receive):
            return as_receivable(branch.topic).received(self._current, run, step_id, outcome)
        if isinstance(branch, Child):
            return branch.value(run, outcome)
        if outcome.error is not None or outcome.output is None:
            return run.steps.value_of(step_id, outcome, run.codec)
        with ValueContext(run.workflow_id, step_id):
            return decode_emitted(run.codec, self.text, outcome.output)


async def wait_for(
    current: Current, branch: Receive[Any] | Event, step_id: str | None, timeout: float | None, default: Any
) -> Any:
    """Wait for one branch, and return its value.

    Raises `WaitTimeoutError` at the timeout in seconds, unless there is a `default`, which is returned then.
    """
    run = await current()
    address = Address(current, run, branch)
    kind = f"event/{escaped(branch.name)}" if isinstance(branch, Event) else _receive_kind(branch)
    own_id = step_id or run.steps.next_id(run.place, kind)

    def timed_out() -> tuple[None, str]:
        error = WaitTimeoutError(run.workflow_id, own_id, timeout or 0.0)
        return None, seal_error(run.codec, dump_error(error, terminal=True), run.workflow_id, own_id)

    outcome = await wait_for_message(
        run, MessageWait(own_id, (address.text,), _fingerprint(run, own_id, [address.text]), timeout, timed_out)
    )
    try:
        return address.value(own_id, outcome)
    except WaitTimeoutError:
        if default is NO_DEFAULT:
            raise
        return default


async def select(current: Current, branches: Mapping[str, Branch], step_id: str | None) -> tuple[str, Any]:
    """Wait for the first of several branches, and return its name and its value."""
    for name, each in branches.items():
        if not isinstance(cast(object, each), Receive | Event | Sleep | Child):
            raise TypeError(f"the branch `{name}` must be a Receive, an Event, a Sleep or a child, got {each!r}.")
    run = await current()
    waits = {name: Address(current, run, each) for name, each in branches.items() if not isinstance(each, Sleep)}
    sleeps = {name: each for name, each in branches.items() if isinstance(each, Sleep)}
    by_address = {each.text: name for name, each in waits.items()}
    if not waits or len(sleeps) > 1 or len(by_address) < len(waits):
        raise ConfigurationError(
            "`select` needs at least one message or event to wait for, each only once, and at most one Sleep; got "
            f"{', '.join(f'{name}={each!r}' for name, each in branches.items()) or 'no branch'}."
        )
    own_id = step_id or run.steps.next_id(run.place, f"select/{','.join(map(escaped, branches))}")
    sleep, timeout = None, None
    for sleep, each in sleeps.items():  # noqa: B007  # at most one
        timeout = max(0.0, parse_seconds("delay", each.delay))
    codec = codec_at(run.codec, "output", run.workflow_id, own_id)

    def slept() -> tuple[str, None]:
        return codec.encode(sleep).text, None

    fingerprint = _fingerprint(run, own_id, [*by_address])
    outcome = await wait_for_message(run, MessageWait(own_id, tuple(by_address), fingerprint, timeout, slept))
    if outcome.address is None:
        winner = run.steps.value_of(own_id, outcome, codec)
        if winner in sleeps:
            return winner, None
    elif outcome.address in by_address:
        winner = by_address[outcome.address]
        return winner, waits[winner].value(own_id, outcome)
    raise StepMismatchError(run.workflow_id, own_id)


def _receive_kind(branch: Receive[Any]) -> str:
    return f"receive/{escaped(as_receivable(branch.topic).name)}"


def _fingerprint(run: Run, step_id: str, addresses: list[str]) -> int | None:
    return run.steps.history.codec_and_fingerprint(step_id, None, fingerprint_of((sorted(addresses),), {}))[1]
