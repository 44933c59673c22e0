"""Invalid input raises a clear error of pgqrs within the timeout, without a password in it."""

from __future__ import annotations

import asyncio
import traceback

import pytest
import pytest_asyncio
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from pgqrs import (
    Admin,
    ConfigurationError,
    DatabaseError,
    DatabaseUnavailableError,
    InvalidDSNError,
    InvalidNameError,
    NotInstalledError,
    PgqrsError,
    PyWorkflow,
    SchemaOutOfDateError,
    step,
    workflow,
)
from pgqrs.models import HEAD
from tests.support.recorded import steps
from tests.support.waiting import no_hang
from tests.support.workflows import greet, greeting

NAN, INF = float("nan"), float("inf")
NUMBERS = {
    "timeout": [0, -1, 0.001, NAN, INF],
    "outage_timeout": [-1, NAN, INF],
    "heartbeat_timeout": [0, -1, 0.5, NAN, INF],
}


@pytest.mark.parametrize(("name", "number"), [(name, each) for name, all_ in NUMBERS.items() for each in all_])
def test_a_number_out_of_range_is_refused(name, number):
    """An expiry of 0 made a thousand transactions a second, and the next worker took every run over."""
    with pytest.raises(ConfigurationError, match=name):
        Admin("postgresql://localhost/nowhere", **{name: number})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("given", ["x", None, True])
def test_non_number_setting_is_refused(name, given):
    with pytest.raises(TypeError, match=name):
        Admin("postgresql://localhost/nowhere", **{name: given})


def shown_text(error):
    """Everything that a log would show of an error: its text, its repr, its traceback, its causes."""
    return "\n".join([str(error), repr(error), repr(error.args), *traceback.format_exception(error)])


async def refused(admin):
    """Return the error that an unusable database gives, the same for the calls that may come first."""
    errors = []
    async with no_hang(), admin:
        for call in (admin.install, admin.verify, lambda: admin.create_workflow("wf", 1), admin.list_workflows):
            with pytest.raises(PgqrsError) as caught:
                await call()
            errors.append(caught.value)
    assert len({type(error) for error in errors}) == 1, errors
    return errors


# --- servers that are not there, or are no PostgreSQL ---


@pytest_asyncio.fixture
async def listener():
    """Make TCP servers that answer whatever they are asked with the same bytes, and then keep silent."""
    servers, writers = [], []

    async def listen(answer=b""):
        async def serve(reader, writer):
            writers.append(writer)
            await reader.read(1)
            writer.write(answer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield listen
    for writer in writers:
        writer.close()
    for server in servers:
        server.close()


async def test_closed_port_is_reported_as_unavailable(unused_tcp_port):
    for error in await refused(Admin(f"postgresql://user:s3cret@127.0.0.1:{unused_tcp_port}/db")):
        assert isinstance(error, DatabaseUnavailableError)
        assert "s3cret" not in shown_text(error)


async def test_unresolvable_host_is_reported_as_unavailable():
    for error in await refused(Admin("postgresql://user:s3cret@no-such-host.invalid/db", timeout=5)):
        assert isinstance(error, DatabaseUnavailableError)
        assert "s3cret" not in shown_text(error)


@pytest.mark.parametrize("as_url", [False, True])
async def test_silent_server_is_unavailable_within_the_timeout(listener, as_url):
    dsn = f"postgresql://user:s3cret@127.0.0.1:{await listener()}/db"
    loop = asyncio.get_running_loop()
    began = loop.time()
    errors = await refused(Admin(make_url(dsn) if as_url else dsn, timeout=0.2))
    assert loop.time() - began < 4 * 0.2 + 3
    for error in errors:
        assert isinstance(error, DatabaseUnavailableError)
        assert "s3cret" not in shown_text(error)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b"N" * 64, b"E\x00\x00\x00\x04"]
)
async def test_foreign_server_raises_database_error_within_timeout(listener, answer):
    port = await listener(answer)
    for error in await refused(Admin(f"postgresql://user:s3cret@127.0.0.1:{port}/db", timeout=0.5)):
        assert isinstance(error, DatabaseError)
        assert "s3cret" not in shown_text(error)


async def test_missing_socket_folder_is_unavailable(tmp_path):
    for error in await refused(Admin(f"postgresql://user:s3cret@/db?host={tmp_path}/none")):
        assert isinstance(error, DatabaseUnavailableError)
        assert "s3cret" not in shown_text(error)


async def test_missing_database_is_unavailable_and_named(dsn):
    url = make_url(dsn).set(database="no_such_database")
    for error in await refused(Admin(url.render_as_string(hide_password=False))):
        assert isinstance(error, DatabaseUnavailableError)
        assert "no_such_database" in str(error)


# --- invalid DSNs ---

NOT_OURS = [
    "mysql://user:s3cr{}t9word@host/db",
    "mysql+aiomysql://user:s3cr{}t9word@host/db",
    "sqlite:///some/s3cr{}t9word",
    "http://user:s3cr{}t9word@host/",
    "user:s3cr{}t9word@host/db",
    "host=localhost password=s3cr{}t9word",
    "postgresql:/user:s3cr{}t9word@host/db",
    "postgresqlx://user:s3cr{}t9word@host/db",
    " s3cr{}t9word",
    "",
]


@pytest.mark.parametrize("special", ["", "#", "/", "@", "?", "%", ":", "\n"])
@pytest.mark.parametrize("pattern", NOT_OURS)
def test_invalid_dsn_is_refused_without_its_password(pattern, special):
    given = pattern.format(special)
    with pytest.raises(InvalidDSNError) as caught:
        Admin(given)
    assert isinstance(caught.value, ValueError)
    assert "s3cr" not in shown_text(caught.value)
    assert "t9word" not in shown_text(caught.value)
    assert "postgresql://" in str(caught.value)


@pytest.mark.parametrize(
    "special", ["#", "/", "@", "?", "%", ":", "[", "]", "%zz", " ", "&", "=", "\n", "ü", "\\", "%23"]
)
@pytest.mark.parametrize(
    "place", ["user:s3cr{}t9word@127.0.0.1:{port}/db", "127.0.0.1:{port}/db?password=s3cr{}t9word"]
)
async def test_a_password_with_special_characters_is_never_shown(unused_tcp_port, special, place):
    """Some of these are read as a host or a port, some work; each is an error of ours, and shows nothing."""
    given = f"postgresql://{place.format(special, port=unused_tcp_port)}"
    async with no_hang():
        with pytest.raises(PgqrsError) as caught:
            await Admin(given, timeout=2).install()
    assert "s3cr" not in shown_text(caught.value)
    assert "t9word" not in shown_text(caught.value)


@pytest.mark.parametrize("special", ["#", "/", "@", "?", "%", ":"])
async def test_a_url_with_a_special_password_is_never_shown(unused_tcp_port, special):
    url = URL.create("postgresql", "user", f"s3cr{special}t9word", "127.0.0.1", unused_tcp_port, "db")
    admin = Admin(url)
    async with no_hang():
        with pytest.raises(DatabaseUnavailableError) as caught:
            await admin.install()
    for text in (shown_text(caught.value), repr(admin), str(admin)):
        assert "s3cr" not in text
        assert "t9word" not in text


def test_a_url_of_another_database_is_refused_at_once():
    given = URL.create("mysql", "user", "s3cret", "host")
    with pytest.raises(InvalidDSNError, match="mysql") as caught:
        Admin(given)
    assert "s3cret" not in shown_text(caught.value)


@pytest.mark.parametrize("given", [None, 5, b"postgresql://localhost/db", object()])
def test_target_of_a_wrong_type_is_a_type_error(given):
    with pytest.raises(TypeError, match="DSN"):
        Admin(given)


@pytest.mark.parametrize(
    "rest", ["127.0.0.1:none/db", "127.0.0.1:99999999/db", "127.0.0.1/db?port=x", "127.0.0.1/db?sslmode=odd"]
)
async def test_unreadable_dsn_part_raises_pgqrs_error(rest):
    given = f"postgresql://user:s3cret@{rest}"
    with pytest.raises(PgqrsError) as caught:
        await Admin(given, timeout=2).install()
    assert "s3cret" not in shown_text(caught.value)


@pytest.mark.parametrize(
    "given", ["embedded:", "embedded:x", "embedded://host/path", "embedded:///", "embedded:///a?b"]
)
def test_a_malformed_embedded_dsn_is_refused_at_once(given):
    with pytest.raises(InvalidDSNError):
        Admin(given)


@pytest.mark.parametrize(
    "odd", [{"port": 99_999_999}, {"query": {"port": "x"}}, {"query": {"sslmode": "odd"}}], ids=str
)
async def test_unreadable_url_part_raises_pgqrs_error(odd):
    url = URL.create("postgresql", "user", "s3cret", "127.0.0.1", database="db").set(**odd)
    with pytest.raises(PgqrsError) as caught:
        await Admin(url, timeout=2).install()
    assert "s3cret" not in shown_text(caught.value).replace('"s3cret"', "")


# --- schema names ---


@pytest.mark.parametrize(
    "name", ["", "x" * 64, "ü" * 32, "a\0b", "\ud800", 5, "a\tb", "a\nb", "a\x7fb"], ids=ascii
)
def test_invalid_schema_name_is_a_value_error(dsn, name):
    with pytest.raises(ValueError) as caught:
        Admin(dsn, name)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("given", [True, "1", 1.0, None])
async def test_workflow_id_of_a_wrong_type_is_a_type_error(admin, given):
    await admin.create_workflow("greeting", "ann")
    calls = [admin.get_workflow, admin.resume_workflow, admin.cancel_workflow, admin.list_steps]
    for call in calls:
        with pytest.raises(TypeError, match=f"a workflow id must be an int, got {type(given).__name__}"):
            await call(given)


@pytest.mark.parametrize("page", [{"after": 1.5}, {"after": "x"}, {"after": True}, {"limit": 1.5}, {"limit": "x"}])
async def test_non_integer_page_bounds_are_a_type_error(admin, page):
    with pytest.raises(TypeError, match="must be an int, got"):
        await admin.list_workflows(**page)


async def test_page_before_any_integer_is_accepted(admin):
    ctx = await admin.create_workflow("greeting", "ann")
    assert [each.id for each in await admin.list_workflows(after=2**80)] == [ctx.id()]
    assert await admin.list_workflows(after=-5) == []


async def test_name_with_a_failing_repr_is_refused(admin):
    class Unshown:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(InvalidNameError, match="invalid workflow name <Unshown>"):
        await admin.create_workflow(Unshown())


ODD = ["select", """U"P'p\\er a.b; {c} %s %(x)s :x $1 -- ü💡""".ljust(59, "x")]
"""A word of SQL, and a name as long as a name can be with all that has to be quoted somewhere."""


@pytest.mark.parametrize("name", ODD)
async def test_a_schema_name_that_needs_quoting_works(own_database, name):
    async with Admin(own_database, name) as admin:
        await admin.install()
        await admin.install()
        await admin.verify()
        ctx = await admin.create_workflow("greeting", "ann")
        assert await greeting(ctx, "ann") == "hello ann"
        assert await greeting(await admin.get_workflow(ctx.id()), "ann") == "hello ann"
        await admin.resume_workflow((await admin.create_workflow("greeting")).id())
        assert len(await admin.list_workflows()) == 2
        assert len(await admin.list_steps(ctx.id())) == 1


async def test_two_schemas_of_one_database_are_isolated(own_database):
    async with Admin(own_database, "one") as one, Admin(own_database, "two") as two:
        await one.install()
        with pytest.raises(NotInstalledError):
            await two.verify()
        await two.install()
        await one.run(greeting, "ann")
        assert await two.list_workflows() == []


# --- schemas that are missing, older or newer ---


async def test_call_before_install_names_the_install_commands(dsn, schema):
    async with Admin(dsn, schema) as admin:
        for call in (
            admin.verify,
            lambda: admin.create_workflow("wf"),
            lambda: admin.run(greeting, "ann"),
            lambda: admin.get_workflow(1),
            lambda: admin.resume_workflow(1),
            admin.list_workflows,
            lambda: admin.list_steps(1),
        ):
            with pytest.raises(NotInstalledError, match=r"install\(\).*`pgqrs install`") as caught:
                await call()
            assert caught.value.schema == schema
        await admin.install()
        assert await admin.run(greeting, "ann") == "hello ann"


@pytest.mark.plants_rows
async def test_dropped_tables_raise_not_installed_during_a_run(dsn, admin, sql, schema):
    async with no_hang(), Admin(dsn, schema, outage_timeout=0.5) as own:  # they may come back
        ctx = await own.create_workflow("greeting")
        await ctx.start()
        await sql.execute(f'DROP SCHEMA "{schema}" CASCADE')
        with pytest.raises(NotInstalledError):
            await greet(ctx, "ann")


@pytest.mark.plants_rows
@pytest.mark.parametrize(("current", "remedy"), [("0000", "pgqrs install"), ("9999", "upgrade")])
async def test_schema_version_mismatch_names_its_remedy(admin, sql, dsn, current, remedy):
    await sql.execute("UPDATE pgqrs_version SET version_num = $1, oldest_supported = NULL", current)
    async with Admin(dsn, admin.schema) as late:
        for call in (late.verify, lambda: late.create_workflow("wf"), late.list_workflows):
            with pytest.raises(SchemaOutOfDateError, match=remedy) as caught:
                await call()
            assert (caught.value.current, caught.value.head) == (current, HEAD)


@pytest.mark.plants_rows
async def test_install_leaves_a_newer_schema_unchanged(admin, sql):
    await sql.execute("UPDATE pgqrs_version SET version_num = '9999', oldest_supported = '9999'")
    with pytest.raises(SchemaOutOfDateError):
        await admin.install()
    assert await sql.fetchval("SELECT version_num FROM pgqrs_version") == "9999"


# --- functions that are none of ours ---


def test_unsupported_functions_are_refused_by_name():
    def plain(ctx): ...

    async def generator(ctx):
        yield 1

    async def nothing(): ...

    async def keyword_only(*, ctx): ...

    async def typed(ctx: int): ...

    class Awaited:
        async def __call__(self, ctx): ...

    for decorator in (step, workflow, step(id="x"), workflow(name="x")):
        for function in (plain, generator, nothing, keyword_only, typed):
            with pytest.raises(TypeError, match=function.__name__):
                decorator(function)
        for no_function in (Awaited(), "text", 5):
            with pytest.raises(TypeError):
                decorator(no_function)


@pytest.mark.parametrize("wrong", [None, "ctx", 5, object()])
@pytest.mark.parametrize("decorated", [greet, greeting])
async def test_wrong_first_argument_error_names_the_function(decorated, wrong):
    with pytest.raises(TypeError, match=rf"{decorated.__name__}.*PyWorkflow"):
        await decorated(wrong, "ann")


@pytest.mark.parametrize("decorated", [greet, greeting])
async def test_a_call_without_arguments_names_the_function(decorated):
    with pytest.raises(TypeError, match=decorated.__name__):
        await decorated()


async def test_run_refuses_undecorated_functions(admin):
    async def plain(ctx): ...

    for function in (greet, plain):
        with pytest.raises(TypeError, match="@workflow"):
            await admin.run(function)
    assert await admin.list_workflows() == []


def test_options_by_position_are_refused():
    with pytest.raises(TypeError):
        step("an id")
    with pytest.raises(TypeError):
        workflow("a name")


async def test_failing_key_function_fails_the_call_unrecorded(admin, sql):
    @step(key=lambda item: item["id"])
    async def handle(ctx: PyWorkflow, item: dict) -> None: ...

    ctx = await admin.create_workflow("wf")
    with pytest.raises(KeyError):
        await handle(ctx, {})
    assert await steps(sql, ctx) == {}


# --- loops ---


async def test_caller_engine_in_a_second_loop_is_an_error(engine, schema):
    async with Admin(engine, schema) as admin:
        await admin.install()

        def second_loop():
            asyncio.run(admin.list_workflows())

        with pytest.raises(ConfigurationError, match="event loop"):
            await asyncio.to_thread(second_loop)


async def test_a_dsn_serves_several_loops_at_once(admin):
    def other_loop():
        return asyncio.run(admin.run(greeting, "bob"))

    assert await admin.run(greeting, "ann") == "hello ann"
    assert await asyncio.gather(*(asyncio.to_thread(other_loop) for _ in range(3))) == ["hello bob"] * 3
    assert len(await admin.list_workflows()) == 4
