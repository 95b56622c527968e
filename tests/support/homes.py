"""Homes of embedded servers: commands that use one, and its state as seen from outside.

The installed command runs as a real process. The kernel shows by `server.lock` whether a server is
left.
"""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest

from payproc.embedded.server import EmbeddedServer
from tests.support.command import COMMAND

IS_ROOT = os.geteuid() == 0
NOBODY = 65534
PATIENCE_SECONDS = 60

only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can do this: run it once as root")


# ---- Commands ------------------------------------------------------------------------------------


def build_environment(home: Path | str | None, **more: str) -> dict[str, str]:
    """Return an environment that names no database, and no folder but the home."""
    hidden = ("DATABASE_URL", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "PAYPROC_HOME", "PAYPROC_TEMPLATE", "PAYPROC_DEBUG")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | ({} if home is None else {"PAYPROC_HOME": str(home)}) | more


def run_command(
    home: Path | str, *arguments: str, events: str = "", limits: str = ":", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in a shell with limits such as `ulimit -f 1000`."""
    return subprocess.run(
        ["bash", "-c", f'{limits}; exec "$0" "$@"', COMMAND, *arguments],
        input=events,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd="/",
        env=build_environment(home, **environment),
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def succeed(home: Path, *arguments: str, events: str = "") -> str:
    """Run a command that must succeed. Return its stderr."""
    done = run_command(home, *arguments, events=events)
    assert done.returncode == 0, done.stderr
    return done.stderr


def read_refusal(home: Path | str) -> str:
    """Run a command that must fail. Return its one line on stderr."""
    done = run_command(home, "init")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("payproc: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("payproc: ").rstrip("\n")


def authorize(*payments: str) -> str:
    """Return input lines, one authorization a payment."""
    return "".join(f'{{"event_id":"event-{p}","payment_id":"{p}","type":"authorize"}}\n' for p in payments)


def read_state(home: Path, payment: str) -> str:
    """Return a payment's state, from `payproc show`."""
    done = run_command(home, "show", payment, "--format", "json")
    assert done.returncode == 0, done.stderr
    state: str = json.loads(done.stdout)["state"]
    return state


class Holder:
    """A command that uses the server until its stdin ends, because it waits for events there."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [COMMAND, "ingest", "--format", "json", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=build_environment(home),
            start_new_session=True,  # a process group of its own, as a terminal gives it
        )

    def wait_until_connected(self) -> "Holder":
        """Wait for its note about the database."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("payproc: database: the embedded PostgreSQL"):
                return self
        raise AssertionError(f"it ended with {self.process.wait()}")

    def read_line(self) -> str:
        """Wait for the next line on stderr. Return it."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().rstrip("\n")

    def read_last_line(self) -> str:
        """Wait until it ends by itself. Return the last line on stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.read().splitlines()[-1]

    def end(self, events: str = "") -> int:
        """Send the last events. Return the exit code."""
        self.process.communicate(events, timeout=PATIENCE_SECONDS)
        return self.process.returncode

    def kill(self) -> None:
        """Kill it, so that it leaves its server running."""
        self.process.kill()
        self.process.communicate()


def write_programs(folder: Path, postgres: str, initdb: str = "") -> Path:
    """Write shell scripts in place of PostgreSQL's programs."""
    folder.mkdir()
    for name, script in (("postgres", postgres), ("initdb", initdb)):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


# ---- Servers, from outside -----------------------------------------------------------------------


def connect(server: EmbeddedServer) -> psycopg2.extensions.connection:
    """Connect as payproc does."""
    return psycopg2.connect(" ".join(f"{name}='{value}'" for name, value in server.connect_args.items()))


def read_pid_file(home: Path) -> list[str]:
    """Return the lines of postmaster.pid, none if the file is missing."""
    try:
        return (home / "data" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def read_server_process(home: Path) -> int:
    """Return the server's process from its pid file."""
    return int(read_pid_file(home)[0])


def is_running(home: Path) -> bool:
    """Return whether a process of the server, or of its creation, is left."""
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


def count_starts(home: Path) -> int:
    """Return the number of server starts in the log."""
    return (home / "log").read_text(errors="replace").count("starting PostgreSQL")


def configure(home: Path, *settings: str) -> None:
    """Add lines to the server's settings."""
    with (home / "data" / "postgresql.conf").open("a") as config:
        config.write("".join(f"{setting}\n" for setting in settings))


def write_as_owner(file: Path, text: str) -> None:
    """Write a file of the data directory, as the server would."""
    file.write_text(text)
    found = file.parent.stat()
    os.chown(file, found.st_uid, found.st_gid)


def write_pid_file(home: Path, socket_folder: Path, status: str, process: int | None = None) -> None:
    """Write a postmaster.pid that names this or another process."""
    lines = [str(process or os.getpid()), f"{home}/data", "1700000000", "5432", str(socket_folder), "", "1 2"]
    write_as_owner(home / "data" / "postmaster.pid", "\n".join([*lines, f"{status:8}", ""]))


def find_open_files(process: int) -> list[str]:
    """Return the last parts of the names of a process's open files and sockets."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):  # the process has just ended
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                found.append(descriptor.readlink().name)
    return found


# ---- Users, modes and folders --------------------------------------------------------------------


def read_mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def read_owner(path: Path) -> tuple[int, int, int]:
    """Return the user, the group and the permissions of a file or link."""
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def become_nobody() -> None:
    """Make this process one of the user nobody, for good."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def try_as_nobody(action: Callable[[], object]) -> str:
    """Act in a process of the user nobody. Return the name of its OSError, else `done`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become_nobody()
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


def find_fast_folder() -> Path:
    """Return a folder in memory if there is room, because a slow disk must not pass for a hang."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 4 << 30:
        return Path("/tmp")
    # A home may hold copies of the binaries.
    is_executable = not os.statvfs(memory).f_flag & os.ST_NOEXEC
    return memory if is_executable else Path("/tmp")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder with a short path, open to other users. At the end no server may be left."""
    path = Path(tempfile.mkdtemp(prefix="emb-", dir=find_fast_folder()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        left = [lock.parent for lock in path.rglob("server.lock") if is_running(lock.parent)]
        for home in left:
            if (process := read_server_process(home)) != os.getpid():  # a test may have written its own
                os.kill(process, signal.SIGQUIT)
        shutil.rmtree(path)
    assert not left, "a server was left behind"


def copy_home(template: Path, home: Path) -> Path:
    """Copy a home with a stopped database in it, because that is quicker than creating one."""
    subprocess.run(["cp", "-a", template, home], check=True)
    return home
