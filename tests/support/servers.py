"""Servers that a test administers, with the programs of the embedded one."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL

from payproc.db import connection as db
from payproc.db import schema
from payproc.embedded import binaries
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.server import run_server
from tests.support.homes import find_fast_folder

IS_ROOT = os.geteuid() == 0
POSTGRES_VERSION = int(os.environ.get("PAYPROC_TEST_POSTGRES", binaries.POSTGRES_VERSION))

DEBIAN_POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
"""The programs of Debian's newest PostgreSQL, None without one."""


_reserved: list[socket.socket] = []
"""Sockets that keep their ports from other tests and from connections, until this process ends."""


def find_free_port() -> int:
    """Return a TCP port that nobody else gets.

    Its socket is bound and does not listen, so a server with SO_REUSEADDR can use the port as well.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    _reserved.append(bound)
    port: int = bound.getsockname()[1]
    return port


class Pristine(NamedTuple):
    """An embedded server's home with payproc's empty schema, to be copied, and its programs."""

    home: Path
    programs: Path

    @property
    def data(self) -> Path:
        """The server's files, which its user owns."""
        return self.home / "data"


def new_folder() -> Path:
    """Make a folder for a server, in memory if there is room."""
    return Path(tempfile.mkdtemp(prefix="payproc-other-", dir=find_fast_folder()))


def as_owner_of(path: Path) -> dict[str, Any]:
    """Return arguments for subprocess that make root run a process as the owner of a file.

    Servers and poolers refuse to run as root.
    """
    status = path.stat()
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []} if IS_ROOT else {}


class OwnServer:
    """A server that the test administers."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.url = URL.create("postgresql", SUPERUSER, database="postgres", query={"host": str(home)})
        self.programs = programs
        self.within: tuple[str, ...] = ()
        """A command that runs its programs in another namespace, as its user."""

    def configure(self, *settings: str) -> None:
        """Add lines to the settings, for the next start."""
        with (self.data / "postgresql.conf").open("a") as config:
            config.write("".join(f"{setting}\n" for setting in settings))

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        self.run("pg_ctl", "start", "-w", "-t", "120", "-D", self.data)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, and wait for its end."""
        self.run("pg_ctl", "stop", "-w", "-t", "120", "-m", mode, "-D", self.data)

    def restart(self, mode: str) -> None:
        """Stop the server in this mode, and start it again."""
        self.stop(mode)
        self.start()

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        with (self.home / "log").open("a") as log:  # not a pipe, which the server would hold open
            done = subprocess.run(
                [*self.within, self.programs / program, *arguments],
                cwd=self.home,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                **({} if self.within else as_owner_of(self.data.parent)),
            )
        assert done.returncode == 0, (self.home / "log").read_text(errors="replace")[-3000:]


OwnServers = Callable[..., OwnServer]
"""A function that starts a server: settings, and `within` for a network namespace."""


@contextmanager
def pristine_home() -> Iterator[Pristine]:
    """Create a server once, for all tests that need one of their own."""
    home = new_folder()
    try:
        with run_server(home, version=POSTGRES_VERSION) as server:
            schema.bring_up(db.Database(server.connect_args, "a new database"))
            pid = (home / "data" / "postmaster.pid").read_text().splitlines()[0]
            # Where the server's user can run them.
            programs = Path(f"/proc/{pid}/exe").resolve().parent
        yield Pristine(home, programs)
    finally:
        shutil.rmtree(home)


@contextmanager
def running(pristine: Pristine, settings: Sequence[str], *, within: str = "") -> Iterator[OwnServer]:
    """Run a copy of a pristine server with these settings, if named in a network namespace."""
    server = OwnServer(new_folder(), pristine.programs)
    if within:
        owner = pristine.data.stat()
        server.within = ("nsenter", f"--net=/run/netns/{within}", "-S", str(owner.st_uid), "-G", str(owner.st_gid))
    try:
        subprocess.run(["cp", "-a", f"{pristine.home}/.", server.home], check=True)
        # These servers crash, but never the machine below them. So fsync would only cost time.
        server.configure(f"unix_socket_directories = '{server.home}'", "fsync = off", *settings)
        server.start()
        yield server
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop("immediate")
        shutil.rmtree(server.home)
