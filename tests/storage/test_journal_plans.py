"""The statements of the hot path use the primary keys, whatever the tables held when they were planned.

The statements of workers use the partial indexes of live workflows, which hold no ended workflows.
"""

import itertools
import json
from functools import partial
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event

from pgqrs.models import Executor, Step, Workflow
from pgqrs.storage.queries import claims, executors, maintenance
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes import registry as writes
from tests.support.parked import MANY, plant_waiting
from tests.support.waiting import until

pytestmark = [pytest.mark.plants_rows, pytest.mark.new_tables]

KEYS = ("pk_", "ix_pgqrs_messages_key", "ix_pgqrs_workflows_parent", "ix_pgqrs_workflows_place")
"""The indexes by which rows are looked up: by their ids, messages by their keys, children by their parents."""

TABLES = {Workflow.__tablename__, Step.__tablename__}
ROWS = 100_000
KINDS = ("begin", "create", "end", "enqueue", "failure", "leave", "new", "start", "step")
# Those of runs that are to be cancelled, and those sent again, are rare, and mix with nothing that the others do not.
LATE = ("beginagain", "last", "lastfailure")
# Those of messages, of children, of generations and of sagas go into batches with further writes.
APART = ("continue", "emit", "enqueueuntilend", "outgoing", "send", "sending", "startkeyed", "startmany")
APART = (*APART, "enqueuepartitioned", "enqueuetraced", "starttraced", "saga", "stateful", "take", "wait")
NEVER_ALONE = {"continue", "outgoing", "sending", "startkeyed", "startmany", "starttraced", "stateful", "take"}
NEW = {"begin": 1, "create": 2, "enqueue": 3, "enqueueuntilend": 4, "enqueuepartitioned": 5, "enqueuetraced": 6}
NEW |= {"beginagain": 7}
OLD = {"start": 1, "step": 2, "end": 3, "reopen": 3, "asked": 4, "failure": 5, "leave": 6, "retry": 6}
OLD |= {"last": 7, "lastfailure": 8, "send": 9, "sending": 10, "startmany": 11, "take": 12, "wait": 13}
OLD |= {"waiting": 6, "awaited": 6, "outgoing": 17, "replies": 10, "events": 10, "child": 10, "parent": 10}
OLD |= {"children": 11, "parents": 11, "emit": 14, "startkeyed": 15, "continue": 16, "saga": 18}
OLD |= {"new": 21, "stateful": 19, "states": 19, "starttraced": 20, "childtraced": 10, "childrentraced": 11}
MIXES = [
    ("begin", "end", "new"),
    ("begin", "end", "new", "step"),
    ("create", "end", "start", "step"),
    ("end", "enqueue", "failure", "leave", "step"),
    KINDS,
]
BATCHES = [names for n in (1, 2) for names in itertools.combinations(KINDS, n)] + MIXES
BATCHES += [tuple(sorted((*names, "reopen"))) for names in BATCHES if "end" in names]
BATCHES += [tuple(sorted((*names, "retry"))) for names in BATCHES if "leave" in names]
BATCHES += [(name,) for name in (*LATE, *APART)]
BATCHES += [
    ("awaited", "leave", "waiting"),
    ("child", "events", "parent", "replies", "sending"),
    ("children", "parents", "startmany"),
    ("childtraced", "parent", "sending"),
    ("childrentraced", "parents", "startmany"),
    ("stateful", "states"),
]
PAGES = {*BATCHES[: len(KINDS)], *MIXES, ("asked",)}
LITERALS = {
    "claim": "1",
    "executor": str(UUID(int=8)),
    "elapsed": "0.5",
    "step_id": "s",
    "error": "NULL",
    "status": "WAITING",
    "is_kept": "false",
    "is_over": "false",
    "ends_with_parent": "false",
    "releases_key": "false",
}
SINGLE = [kind for kind in writes.OPERATIONS.values() if kind.name not in NEVER_ALONE]
"""The operations of which a record is sent alone."""


def _value(bind, n):
    """Return the n-th literal of an array for a bind."""
    kind, _, column = bind.partition("_")
    if column == "workflow_id":
        # New workflows lie beyond the table; the rest are spread over it, each kind in a part of its own.
        return str(ROWS + NEW[kind] + 10 * n if kind in NEW else 100 * n + OLD[kind])
    if bind == "start_claim":
        return "2"  # another than the workflows have
    if bind == "new_step_id":
        return "new"  # the workflows have none of this id
    return f"k{n}" if column == "key" else LITERALS.get(column, "7")


def _arguments(statement, size):
    arrays = ("{" + ",".join(_value(bind, n) for n in range(size)) + "}" for bind in statement.binds)
    return ", ".join(f"'{array}'" for array in arrays)


def _values(statement):
    return ", ".join(
        "NULL" if value == "NULL" else f"'{value}'" for value in (_value(b, 1) for b in statement.binds)
    )


def _nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _top(explained):
    """Return the plan; SQLAlchemy has its connections decode JSON already."""
    (top,) = json.loads(explained) if isinstance(explained, str) else explained
    return top


def _scans(explained):
    top = _top(explained)
    return [
        node for node in _nodes(top["Plan"]) if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"]
    ]


def _writes_only_new(names):
    return set(names) <= {*NEW, "emit"}


async def _fill(connection, schema):
    await connection.execute(f"""
        INSERT INTO {schema}.pgqrs_workflows (name, status, epoch, claim, input, output, executor)
        SELECT 'w', 'RUNNING', 1, 1, '{{}}', '1', '{LITERALS["executor"]}' FROM generate_series(1, {ROWS})
    """)
    await connection.execute(f"""
        INSERT INTO {schema}.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output)
        SELECT n, 's', 'ERROR', 0, now(), '1' FROM generate_series(1, {ROWS}) n
    """)


async def _check_batches(driver, state, statements):
    for number, (names, statement) in enumerate(statements.items()):
        explained = await driver.fetchval(
            f"EXPLAIN (FORMAT JSON) EXECUTE hot_{number}({_arguments(statement, 50)})"
        )
        scans = _scans(explained)
        assert scans or _writes_only_new(names)
        for node in scans:
            assert node["Node Type"] != "Seq Scan", (state, names, node)
            assert "Index Cond" in str(node) or node["Node Type"] == "Tid Scan", (state, names, node)
            assert node.get("Index Name", "pk_").startswith(KEYS), (state, names, node)


async def _check_lone(driver, state, database):
    for kind in SINGLE:
        lone = database.compile(partial(kind.statement, single=True))
        scans = _scans(await driver.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE lone_{kind.name}({_values(lone)})"))
        assert scans or _writes_only_new([kind.name])
        for node in scans:
            # Whether a run has recorded a step may be read through a bitmap: of its own workflow's steps.
            assert node["Node Type"] in {"Index Scan", "Bitmap Heap Scan"}, (state, kind.name, node)
            assert all(each.get("Index Name", "pk_").startswith(KEYS) for each in _nodes(node)), (
                state,
                kind.name,
            )


async def _check_pages(driver, statements):
    """Execute, roll back: a batch touches pages in proportion to its rows."""
    tried = [(number, names) for number, names in enumerate(statements) if names in PAGES]
    for size in (50, 1000):  # the many last: they leave dead rows
        for number, names in tried:
            async with _rolled_back(driver):
                explained = await driver.fetchval(
                    f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE hot_{number}({_arguments(statements[names], size)})"
                )
            top = _top(explained)
            plan = top["Plan"]
            pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            kinds = max(1, len(names) - 4)  # a large mix writes that many rows more
            assert pages < 80 * size * kinds, (names, size, pages)
            compared = max((node.get("Rows Removed by Join Filter", 0) for node in _nodes(plan)), default=0)
            assert compared <= 20 * size, (names, size, compared, top["Execution Time"])


# One test, for the rows take longer than all that is asked of them.
async def test_journal_statements_never_scan_a_large_table(dsn, schema, admin):
    store = await admin.store()
    driver = await store.database.open_driver()
    reader = await asyncpg.connect(dsn, server_settings={"plan_cache_mode": "force_generic_plan"})
    reads = []

    def note(*told):
        if "pgqrs_workflow" in told[2]:
            reads.append((told[2], ", ".join(map(_literal, told[3]))))

    engine = store.database.engine.sync_engine
    await store.tables.ensure()
    event.listen(engine, "before_cursor_execute", note)
    await store.history(1)
    event.remove(engine, "before_cursor_execute", note)
    assert len(reads) == 2
    try:
        # Planned while the tables are empty, as by a process that was there before the rows.
        statements = {names: store.journal._writer.statements.of(names) for names in [*BATCHES, ("asked",)]}
        for kind in SINGLE:
            lone = store.database.compile(partial(kind.statement, single=True))
            await driver.execute(f"PREPARE lone_{kind.name} AS {lone.text}")
            await driver.execute(f"BEGIN; EXECUTE lone_{kind.name}({_values(lone)}); ROLLBACK")
        for number, statement in enumerate(statements.values()):
            await driver.execute(f"PREPARE hot_{number} AS {statement.text}")
            if number < 15:
                await driver.execute(f"BEGIN; EXECUTE hot_{number}({_arguments(statement, 2)}); ROLLBACK")
        for number, (text, arguments) in enumerate(reads):
            await reader.execute(f"PREPARE read_{number} AS {text}")
            await reader.execute(f"EXECUTE read_{number}({arguments})")
        await _fill(reader, schema)
        for state in ("stale statistics", "analyzed"):
            if state == "analyzed":
                await reader.execute(f"ANALYZE {schema}.pgqrs_workflows; ANALYZE {schema}.pgqrs_workflow_steps")
            await _check_batches(driver, state, statements)
            await _check_lone(driver, state, store.database)
            if state == "stale statistics":
                await _check_pages(driver, statements)
            for number, (_, arguments) in enumerate(reads):
                explained = await reader.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE read_{number}({arguments})")
                for node in _scans(explained):
                    assert node["Node Type"] != "Seq Scan", (state, node)
    finally:
        await reader.close()
        await driver.close()


# Workers

OWN, RIVAL = UUID(int=1), UUID(int=2)
PARTIAL = {"ready", "due", "executor", "deadline", "next", "queued", "schedule"}
NAMES, QUEUES = ["w", "v"], ["default", "other"]


async def _plant(driver, *, queued=0, finished=0, parked=0, live=100):
    """Fill the tables; whatever else is there, some are due, some run, some have deadlines."""
    await plant_waiting(driver, parked)
    await driver.execute(f"""
        INSERT INTO pgqrs_executors (id, host, pid, expires_at) SELECT
            lpad(to_hex(n), 32, '0')::uuid, 'planted', 1, now() + interval '1 h' FROM generate_series(1, 10) n;
        INSERT INTO pgqrs_workflows (name, status, epoch, input, output, completed_at)
            SELECT 'w', 'SUCCESS', 1, '{{}}', '1', now() FROM generate_series(1, {finished});
        INSERT INTO pgqrs_workflows (name, status, input, queue, priority, ready_at)
            SELECT 'w', 'PENDING', '{{}}', 'default', n % 3, now() FROM generate_series(1, {queued}) n;
        INSERT INTO pgqrs_workflows (name, status, input, queue, due_at)
            SELECT 'w', 'WAITING', '{{}}', 'default', now() + n * interval '1 s' - interval '10 s'
            FROM generate_series(1, {live}) n;
        INSERT INTO pgqrs_workflows (name, status, epoch, input, queue, executor, deadline)
            SELECT 'w', 'RUNNING', 1, '{{}}', 'default', lpad(to_hex(n % 10 + 1), 32, '0')::uuid,
                now() + n * interval '1 s' - interval '10 s'
            FROM generate_series(1, {live}) n;
        INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output)
            SELECT n, 's', 'SUCCESS', 1, now(), '1' FROM generate_series(1, {finished // 5}) n;
    """)


class Looks:
    """The statements of a worker, prepared in one session under the names of their functions."""

    def __init__(self, store, driver):
        self._store = store
        self._driver = driver
        self._compiled = {}

    async def prepare(self):
        for make in (
            claims.claim,
            claims.claimed_by_tokens,
            maintenance.maintain,
            maintenance.codecs_of_others,
            maintenance.end_past_deadline,
            maintenance.given_times,
            executors.beat,
            executors.suspect,
        ):
            compiled = self._compiled[make.__name__] = self._store.database.compile(make)
            await self._driver.execute(f"PREPARE {make.__name__} AS {compiled.text}")

    def _text(self, name, values):
        known = {
            "names": NAMES,
            "queues": QUEUES,
            "codec": None,
            "limit": 100,
            "window": 116,
            "budget": 2**26,
            "avoid": [],
            "floor": 0,
            "past": 3e9,
            "executor": OWN,
            "token": new_token(),
            "tokens": [new_token()],
            "unknown_too": False,
            "settled": True,
        }
        known |= {
            "expiry": 15.0,
            "unattended": 5.0,
            "after": 0,
            "lock_key": 5,
            "host": "h",
            "pid": 1,
            "ids": [1, 2, 3],
            "errors": ["{}"] * 3,
        } | values
        compiled = self._compiled[name]
        literals = (_literal(value) for value in compiled.arguments(known))
        return f"{name}({', '.join(literals)})" if compiled.binds else name

    async def explained(self, name, **values):
        return _top(await self._driver.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {self._text(name, values)}"))

    async def pages(self, name, **values):
        """Execute, roll back, and return how many pages that touched."""
        async with _rolled_back(self._driver):
            text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {self._text(name, values)}"
            plan = _top(await self._driver.fetchval(text))["Plan"]
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    async def execute(self, name, **values):
        await self._driver.execute(f"EXECUTE {self._text(name, values)}")

    @property
    def names(self):
        return list(self._compiled)


def _literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(json.dumps(each) for each in value) + "}'"
    return str(value) if isinstance(value, bool | int | float) else f"'{value}'"


class _rolled_back:  # noqa: N801  # used as a function
    def __init__(self, driver):
        self._transaction = driver.transaction()

    async def __aenter__(self):
        await self._transaction.start()

    async def __aexit__(self, *_):
        await self._transaction.rollback()


@pytest_asyncio.fixture
async def driver(schema, admin):
    store = await admin.store()
    driver = await store.database.open_driver(sorting=False)
    await driver.execute(f"SET search_path = {schema}")
    yield driver
    await driver.close()


FULL = [
    pytest.param({"queued": ROWS}, id="queued"),
    pytest.param({"finished": ROWS + ROWS // 5}, id="finished"),
    *(
        pytest.param({kind: MANY}, id=f"{MANY} {kind}", marks=(pytest.mark.slow, pytest.mark.timeout(600)))
        for kind in ("queued", "finished", "parked")
    ),
]


LOOKS = {
    "claim": {},
    "claimed_by_tokens": {},
    "maintain": {},
    "maintain with a search for the unknown": {"unknown_too": True},
    "end_past_deadline": {},
}


async def _pages_of_all(looks):
    return {look: await looks.pages(look.partition(" ")[0], **values) for look, values in LOOKS.items()}


def _check_scans(state, name, scans):
    for node in scans:
        assert node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, (state, name, node)
        for index in _nodes(node):
            by = index.get("Index Name", "pg_")
            if by.startswith("pg_") or by == "pk_pgqrs_executors":  # of the catalog; of a few rows
                continue
            assert by.startswith("pk_") or by.rpartition("_")[2] in PARTIAL, (state, name, node)
            # The runs that somebody holds are looked through as a whole; the others are looked up.
            assert "Index Cond" in index or by.endswith("_executor"), (state, name, index)


@pytest.mark.parametrize("full", FULL)
async def test_worker_queries_use_indexes_and_touch_few_pages(admin, driver, full):
    looks = Looks(await admin.store(), driver)
    await looks.prepare()
    await _plant(driver, queued=200)
    few = await _pages_of_all(looks)
    await driver.execute("TRUNCATE pgqrs_workflows, pgqrs_executors")
    for name in looks.names:  # planned while the tables are empty: anew, the old plans ended with the old tables
        async with _rolled_back(driver):
            await looks.execute(name)
    await _plant(driver, **{"queued": 200} | full)
    for state in ("stale statistics", "analyzed", "custom plans"):
        if state == "analyzed":
            await driver.execute("ANALYZE pgqrs_workflows; ANALYZE pgqrs_workflow_steps; ANALYZE pgqrs_executors")
        if state == "custom plans":
            await driver.execute("SET plan_cache_mode = force_custom_plan")
        for name in looks.names:
            scans = _scans([await looks.explained(name)])
            assert scans or name == "suspect"
            _check_scans(state, name, scans)
        for look, pages in (await _pages_of_all(looks)).items():
            # An index of a million is two levels deeper; a claimed row's new version goes into several of them.
            assert pages <= 3 * few[look] + 50, (state, look, pages, few[look])


async def test_claim_stays_cheap_in_a_mostly_processed_queue(admin, driver):
    """The index entries of what was claimed are dead, and must not be walked through again and again."""
    looks = Looks(await admin.store(), driver)
    await looks.prepare()
    await _plant(driver, queued=40_000, live=0)
    await driver.execute("ANALYZE pgqrs_workflows")
    first = await looks.pages("claim")
    for _ in range(300):
        await looks.execute("claim")

    async def is_cheap():
        # It marks the dead ones that it finds: those that no older transaction, of another test, could still see.
        return await looks.pages("claim") <= 3 * first

    await until(is_cheap)
    assert await driver.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE ready_at IS NULL") == 30_000


def test_every_record_type_is_covered():
    assert {*KINDS, *LATE, *APART} == {kind.name for kind in writes.OPERATIONS.values()}
    assert Executor.__tablename__ not in TABLES
