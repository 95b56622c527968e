"""Homes of embedded servers: commands that use one, and what can be seen of its server from outside.

The installed command runs as a real process. The kernel says whether a server holds `server.lock`.
"""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest

from payproc.embedded.server import EmbeddedServer

PAYPROC = Path(sys.executable).parent / "payproc"
IS_ROOT = os.geteuid() == 0
NOBODY = 65534
PATIENCE_SECONDS = 60

only_root = pytest.mark.skipif(not IS_ROOT, reason="what only root can do: run this once as root")


def environment(home: Path | str | None, **more: str) -> dict[str, str]:
    """What the command finds in its environment: no database named, and no folder but the home."""
    hidden = ("DATABASE_URL", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "PAYPROC_HOME", "PAYPROC_DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | ({} if home is None else {"PAYPROC_HOME": str(home)}) | more


def payproc(home: Path | str, *arguments: str, events: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PAYPROC, *arguments],
        input=events,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd="/",
        env=environment(home),
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def succeed(home: Path, *arguments: str, events: str = "") -> str:
    """Run a command that must end well, and give its stderr."""
    done = payproc(home, *arguments, events=events)
    assert done.returncode == 0, done.stderr
    return done.stderr


def refuse(home: Path | str) -> str:
    """Run a command that must end with one line on stderr, and give it."""
    done = payproc(home, "init")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("payproc: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("payproc: ").rstrip("\n")


def authorize(*payments: str) -> str:
    return "".join(f'{{"event_id":"event-{p}","payment_id":"{p}","type":"authorize"}}\n' for p in payments)


def state_of(home: Path, payment: str) -> str:
    done = payproc(home, "show", payment, "--format", "json")
    assert done.returncode == 0, done.stderr
    state: str = json.loads(done.stdout)["state"]
    return state


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Holder:
    """A payproc that uses the server until it is told to end: it waits for events on stdin."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [PAYPROC, "ingest", "--format", "json", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment(home),
            start_new_session=True,  # a process group of its own, as a terminal gives it
        )

    def wait_until_connected(self) -> "Holder":
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("payproc: database: the embedded PostgreSQL"):
                return self
        raise AssertionError(f"it ended with {self.process.wait()}")

    def next_line(self) -> str:
        """The next line on stderr, which it waits for."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().rstrip("\n")

    def last_line(self) -> str:
        """The last line on stderr of a command that ends by itself."""
        assert self.process.stderr is not None
        return self.process.stderr.read().splitlines()[-1]

    def end(self, events: str = "") -> int:
        self.process.communicate(events, timeout=PATIENCE_SECONDS)
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def connect(server: EmbeddedServer) -> psycopg2.extensions.connection:
    return psycopg2.connect(" ".join(f"{name}='{value}'" for name, value in server.connect_args.items()))


def pid_file(home: Path) -> list[str]:
    try:
        return (home / "data" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def server_process(home: Path) -> int:
    return int(pid_file(home)[0])


def is_running(home: Path) -> bool:
    """Whether a process of the server, or of its creation, is left."""
    try:
        descriptor = os.open(home / "server.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def starts(home: Path) -> int:
    return (home / "log").read_text(errors="replace").count("starting PostgreSQL")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_nobody(action: Callable[[], object]) -> str:
    """Do something in a process of another user; give the name of the OSError that it ran into."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
            os.write(writer, b"done")
        except OSError as error:
            os.write(writer, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor, no path
        return pipe.read().decode()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A short closed folder as `mktemp -d` makes it; at the end no server may be left in any home inside."""
    path = Path(tempfile.mkdtemp(prefix="emb-", dir="/tmp"))
    try:
        yield path
    finally:
        left = [lock.parent for lock in path.rglob("server.lock") if is_running(lock.parent)]
        for home in left:
            os.kill(server_process(home), signal.SIGQUIT)
        shutil.rmtree(path)
    assert not left, "a server was left behind"


def copy_home(template: Path, home: Path) -> Path:
    """Copy a home with a stopped database in it: quicker than creating one."""
    subprocess.run(["cp", "-a", template, home], check=True)
    home.parent.chmod(mode(template.parent))
    return home
