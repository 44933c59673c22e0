"""Fault mode: runs the tests with one network fault at each round trip of the journal.

`pytest -p tests.support.fault_mode --faults before,after tests/workflows`, or `make test-faults`. Each test runs once
without a fault, which counts the round trips of its journals' connections, and then anew, with fixtures and a schema of
its own, for each fault at each of them; it must pass unchanged. A failure is named `test_x{after@7}`: by its fault and n.

Only the journal's connections are led over the wire: each durable write is theirs, and theirs is the promise that
nobody sees a fault. Each other connection, the test's own included, goes straight to the server.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakSet

import asyncpg
import pytest
from _pytest.runner import runtestprotocol
from anyio.from_thread import start_blocking_portal

from pgqrs.storage import store
from pgqrs.storage.connections.database import Database
from pgqrs.storage.journal.journal import Journal
from tests.support.database import connected
from tests.support.wire import Fault, Wire

_TOLD_BY_A_TIMEOUT = {Fault.SILENT_BEFORE, Fault.SILENT_AFTER, Fault.LATE}

FAULTS = {fault.name.lower(): fault for fault in Fault if fault not in _TOLD_BY_A_TIMEOUT}
"""The faults by the names that `--faults` takes; what a client finds out about by its timeout would take hours."""

RUN_LIMIT = 75
"""The seconds that one run of a test may take: what hangs is ended, and named."""

LEFT_OUT = {
    "test_alembic_host.py": "the histories of an application and of the tables",
    "test_bad_input.py": "what is refused before anything is written",
    "test_caller_sessions.py": "the application's own connection writes",
    "test_dask.py": "steps in other processes",
    "test_drain.py": "workers, and what they hand back in time",
    "test_event_loops.py": "loops and programs that end, and faults of its own",
    "test_gc_policy.py": "the garbage collector",
    "test_handles.py": "waiting for what workers do, and faults of its own",
    "test_heartbeat.py": "the heartbeat, and faults of its own",
    "test_many_at_once.py": "thousands of workflows, and their cost",
    "test_models.py": "the application's own queries",
    "test_notifier.py": "the notifications and the polling of workers",
    "test_orders_example.py": "the servers of an example, in processes of their own",
    "test_recovery.py": "processes that are killed",
    "test_server_away.py": "servers of the tests' own, which go away",
    "test_small_pools.py": "pools of one connection",
    "test_spec_document.py": "programs in processes of their own",
    "test_testing_kit.py": "a kit that runs each workflow once for each of its writes already",
    "test_testing_kit_codecs.py": "a kit that runs each workflow once for each of its writes already",
    "test_testing_plugin.py": "pytest runs of their own",
    "test_workers.py": "workers, and processes that are killed",
}
"""The files whose subject is another than what the journal writes; single tests are marked `unfaulted(reason)`."""


class Plan(NamedTuple):
    """One run of a test: which round trip fails, and how; None for none."""

    n: int = 0
    fault: Fault | None = None

    def __str__(self) -> str:
        return "" if self.fault is None else f"{{{self.fault.name.lower()}@{self.n}}}"


class Seen(NamedTuple):
    """What went over the wire in a run, and whether the fault that was planned came to pass."""

    texts: tuple[str, ...] = ()
    executed: tuple[int, ...] = ()
    fired: bool = False

    def plans(self, fault: Fault) -> list[Plan]:
        """Return where a fault is to strike: at each round trip, and what strikes an answer where there is one to lose.

        What only prepares a statement changes nothing on the server: its lost answer is the statement that never came.
        """
        everywhere = range(1, len(self.texts) + 1)
        return [Plan(n, fault) for n in (self.executed if fault in _OF_ANSWERS else everywhere)]


_OF_ANSWERS = {Fault.AFTER, Fault.HALF}


_PLAN = pytest.StashKey[Plan]()
_SEEN = pytest.StashKey[Seen]()

# What reports carry from a process that runs tests to the one that tells of them.
_COUNTED, _FAULTED_AT = "pgqrs_round_trips", "pgqrs_faulted_at"


# The wire, and what leads the journals over it.


@asynccontextmanager
async def _wire_to(dsn: str) -> AsyncIterator[Wire]:
    async with connected(dsn) as sql, Wire(dsn, sql) as wire:
        yield wire


@pytest.fixture(scope="session")
def faulted_wire(dsn: str) -> Iterator[Wire]:
    """The wire that journals are led over, in a thread: no test's event loop, nor what blocks it, stops it."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_wire_to(dsn)) as wire,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(asyncpg, "connect", _led_over(wire, dsn))
        patch.setattr(store, "Journal", FaultedJournal)
        yield wire


@pytest.fixture(autouse=True)
def planned_fault(faulted_wire: Wire, request: pytest.FixtureRequest) -> Iterator[None]:
    """The fault of this run, from before the test's other fixtures until after them."""
    n, fault = request.node.stash.get(_PLAN, Plan())
    faulted_wire.hook = FaultedJournal.cancel_all
    faulted_wire.arm(n, fault or Fault.BEFORE)  # round trip 0 is none
    yield
    faulted_wire.disarm()
    request.node.stash[_SEEN] = Seen(tuple(faulted_wire.texts), tuple(faulted_wire.executed), faulted_wire.fired)


_is_led = ContextVar("_is_led", default=False)
_connect = asyncpg.connect


def _led_over(wire: Wire, dsn: str) -> Any:
    """Return an `asyncpg.connect` that goes over the wire where it opens the connection of a journal.

    Not where it is told of another server than the DSN's: a wire of the test's own, which has faults of its own.
    """
    over_the_wire = {"host": "127.0.0.1", "port": urlsplit(wire.dsn).port}

    def connect(given: str | None = None, /, **named: Any) -> Any:
        target = given or named.get("dsn") or dsn
        is_led = _is_led.get() and _server_of(target) == _server_of(dsn)
        return _connect(*([] if given is None else [given]), **named | (over_the_wire if is_led else {}))

    return connect


def _server_of(dsn: str) -> tuple[str, str]:
    """Return what a DSN says of the server, whatever the database."""
    parts = urlsplit(dsn)
    return parts.netloc, parts.query


class LedDatabase:
    """A journal's database: connections are opened over the wire, and all else is the database's own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def open_driver(self, **options: Any) -> Any:
        token = _is_led.set(True)
        try:
            return await self._database.open_driver(**options)
        finally:
            _is_led.reset(token)


class FaultedJournal(Journal):
    """A journal whose connections go over the wire, and whose task that sends a fault may cancel."""

    _alive: ClassVar[WeakSet[FaultedJournal]] = WeakSet()

    def __init__(self, database: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(LedDatabase(database), *arguments, **options)  # type: ignore[arg-type]
        self._alive.add(self)

    @classmethod
    def cancel_all(cls) -> None:
        """Cancel the tasks that send, in their own event loops: this is called in the wire's thread."""
        for journal in list(cls._alive):
            with suppress(RuntimeError):  # the loop has ended
                journal._loop.call_soon_threadsafe(journal._cancel)

    def _cancel(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()


# The runs.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", default="before,after", help=f"which faults, of {', '.join(FAULTS)}")


def _faults(config: pytest.Config) -> list[Fault]:
    names = config.getoption("--faults").split(",")
    if unknown := set(names) - set(FAULTS):
        raise pytest.UsageError(f"--faults: {', '.join(unknown)} is none of {', '.join(FAULTS)}")
    return [FAULTS[name] for name in names]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("unfaulted")
        reason = LEFT_OUT.get(item.path.name) if marker is None else marker.args[0]
        if reason is not None:
            # In this mode alone; without it the test runs, and the reason stands in `LEFT_OUT` or beside its marker.
            item.add_marker(pytest.mark.skip(reason=f"unfaulted: {reason}"))
        # Each run has its own: all of a test's together take minutes.
        item.add_marker(pytest.mark.timeout(RUN_LIMIT, func_only=True))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _all_runs(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _all_runs(item: pytest.Item) -> list[pytest.TestReport]:
    """Run a test without a fault and then with each; return the reports of the first, and what failed of the rest."""
    began = time.monotonic()
    reports, seen = _run(item, Plan())
    if any(report.failed for report in reports):
        return reports
    plans = [plan for fault in _faults(item.config) for plan in seen.plans(fault)]
    failed: list[pytest.TestReport] = []
    missed = 0
    for plan in plans:
        outcome, faulted = _run(item, plan)
        missed += not faulted.fired
        failed += [_named(report, plan, faulted) for report in outcome if report.failed]
    for report in reports:
        if report.when == "call":
            report.user_properties.append((_COUNTED, (len(seen.texts), len(plans), missed)))
            report.duration = time.monotonic() - began
    return [*reports, *failed]


def _run(item: pytest.Item, plan: Plan) -> tuple[list[pytest.TestReport], Seen]:
    item.stash[_PLAN] = plan
    item.stash[_SEEN] = Seen()
    item._initrequest()  # type: ignore[attr-defined]  # anew, as the plugins that repeat failed tests do it
    # As though a sister of the test came next: what is the module's, or the session's, stays.
    reports = runtestprotocol(item, log=False, nextitem=item.parent)  # type: ignore[arg-type]
    return reports, item.stash[_SEEN]


def _named(report: pytest.TestReport, plan: Plan, seen: Seen) -> pytest.TestReport:
    """Have a failure say which fault it came with, and at which statement; `_rename` does the rest."""
    statement = seen.texts[plan.n - 1] if plan.n <= len(seen.texts) else "(not reached)"
    report.sections.append(("the fault", f"{plan.fault}, at round trip {plan.n}: {statement}"))
    report.user_properties.append((_FAULTED_AT, str(plan)))
    return report


# What it came to.


class Teller:
    """Names the failures and counts the runs, where they are told: xdist's workers know tests by their own names."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == _FAULTED_AT:
                _rename(report, value)
            elif name == _COUNTED and report.when == "call":
                round_trips, runs, missed = value
                untouched = int(round_trips == 0)
                self._totals.update(
                    tests=1, untouched=untouched, round_trips=round_trips, runs=runs, missed=missed
                )

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        totals = self._totals
        terminalreporter.write_line(
            f"{totals['tests']} tests, {totals['untouched']} of which write nothing through a journal of this process; "
            f"{totals['round_trips']} round trips, {len(_faults(config))} faults, {totals['runs']} runs with a fault, "
            f"{totals['missed']} of which ended before it"
        )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not the environment: a run within a worker of another has that one's
        config.pluginmanager.register(Teller())


def _rename(report: pytest.TestReport, plan: str) -> None:
    path, line, name = report.location
    report.nodeid, report.location = f"{report.nodeid}{plan}", (path, line, f"{name}{plan}")
