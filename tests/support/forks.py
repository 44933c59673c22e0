"""Python programs in forks of a process that has imported pgqrs: the import takes half a second of a processor.

The process that is forked has no threads. A program in a fork ends as any other, with its exit handlers and its warnings;
it shares the hash seed with the other forks of the process. What a test says of an import or of hashes needs a process
that is started anew (`processes`).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from select import select
from time import monotonic
from typing import IO, Any, NoReturn, Self

_IMPORTED = ("pgqrs", "pgqrs.cli", "pgqrs.embedded", "sqlalchemy.dialects.postgresql.asyncpg")
_ENDS = 4
"""The descriptors of a program: its standard streams, and the pipe that tells of its end."""


class Forked:
    """A program in a fork, with the methods of a `subprocess.Popen` whose streams are pipes of text."""

    def __init__(self, told: int, stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._told = os.fdopen(told, "rb", buffering=0)
        self._waiting = threading.Lock()
        self.pid = int(self._told.read(20))

    def poll(self) -> int | None:
        """Return the exit code, or None while the program runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired([], timeout or 0.0)
        return code

    def communicate(self, given: str = "", timeout: float | None = None) -> tuple[str, str]:
        """Send the last input, and return what the program writes until its end."""
        end = None if timeout is None else monotonic() + timeout
        written = ["", ""]
        readers = [
            threading.Thread(target=lambda n=n, each=each: written.__setitem__(n, each.read()), daemon=True)
            for n, each in enumerate((self.stdout, self.stderr))
            if not each.closed
        ]
        for each in readers:
            each.start()
        try:
            if not self.stdin.closed:
                self.stdin.write(given)
                self.stdin.close()
        except BrokenPipeError:
            pass
        for each in readers:
            each.join(None if end is None else max(0.0, end - monotonic()))
            if each.is_alive():
                raise subprocess.TimeoutExpired([], timeout or 0.0)
        self.wait(None if end is None else max(0.1, end - monotonic()))
        self.stdout.close()
        self.stderr.close()
        self._told.close()
        return written[0], written[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _ended(self, timeout: float | None) -> int | None:
        with self._waiting:
            if self.returncode is None and select([self._told], [], [], timeout)[0]:
                self.returncode = int(self._told.read(20) or -signal.SIGKILL)
            return self.returncode


class Forkery:
    """A process that has imported pgqrs, with options of the interpreter, and forks programs when it is told to."""

    def __init__(self, *options: str) -> None:
        self._control, its_end = socket.socketpair()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, *options, str(Path(__file__)), str(its_end.fileno())],
                pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.communicate()

    def start(self, path: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> Forked:
        """Start the program of a file."""
        pipes = [os.pipe() for _ in range(_ENDS)]
        (its_in, stdin), (stdout, its_out), (stderr, its_err), (told, tells) = pipes
        given = {
            "path": str(path),
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": os.environ | environment,
        }
        try:
            message = json.dumps(given).encode() + b"\n"
            sent = socket.send_fds(self._control, [message], [its_in, its_out, its_err, tells])
            self._control.sendall(message[sent:])
        finally:
            for each in (its_in, its_out, its_err, tells):
                os.close(each)
        return Forked(told, os.fdopen(stdin, "w"), os.fdopen(stdout), os.fdopen(stderr))


# In the process that forks, and in its forks


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork when told to; return what is told, in the fork that is to execute it."""
    for name in _IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the terminal sends to all
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing is to wait for the keepers
    while True:
        message, ends, *_ = socket.recv_fds(control, 1 << 20, _ENDS)
        if not message:
            os._exit(0)
        while not message.endswith(b"\n"):
            message += control.recv(1 << 20)
        if os.fork() == 0:
            control.close()
            _keep(ends)
            return json.loads(message)
        for each in ends:
            os.close(each)


def _keep(ends: list[int]) -> None:
    """Fork the program, and tell of its process id and of its end; return in the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    *streams, tells = ends
    pid = os.fork()
    if pid == 0:
        os.close(tells)
        for number, each in enumerate(streams):
            os.dup2(each, number)
            os.close(each)
        return
    for each in (0, 1, 2, *streams):
        os.close(each)
    _tell(tells, pid)


def _tell(tells: int, pid: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(tells, b"%-20d" % pid)
    os.write(tells, b"%-20d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def execute(told: dict[str, Any]) -> None:
    """Execute a program as the interpreter does whose script it is."""
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["cwd"])
    path = Path(told["path"])
    sys.argv[:] = [str(path), *told["arguments"]]
    sys.path[0] = str(path.parent)
    if os.environ.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, TextIOWrapper)
            stream.reconfigure(write_through=True)
    main = types.ModuleType("__main__")
    main.__file__ = str(path)
    sys.modules["__main__"] = main
    exec(compile(path.read_text(), path, "exec"), main.__dict__)


if __name__ == "__main__":
    execute(serve(socket.socket(fileno=int(sys.argv[1]))))
