"""Servers of a test's own: the embedded one's programs, with the test for an administrator."""

import os
import shutil
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
from payproc.embedded.server import running_server

IS_ROOT = os.geteuid() == 0
POSTGRES_VERSION = int(os.environ.get("PAYPROC_TEST_POSTGRES", binaries.POSTGRES_VERSION))


class Pristine(NamedTuple):
    """An embedded server's home with payproc's schema and nothing in it, to be copied; and the server's programs."""

    home: Path
    programs: Path

    @property
    def data(self) -> Path:
        """The server's files, which its user owns."""
        return self.home / "data"


def new_folder() -> Path:
    """A folder that the server's user can reach."""
    return Path(tempfile.mkdtemp(prefix="payproc-other-"))


def as_owner_of(path: Path) -> dict[str, Any]:
    """What lets a process run as the owner of a file: servers and poolers refuse to run as root."""
    status = path.stat()
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []} if IS_ROOT else {}


class OwnServer:
    """A server that the test is the administrator of."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.url = URL.create("postgresql", SUPERUSER, database="postgres", query={"host": str(home)})
        self.programs = programs
        self.within: tuple[str, ...] = ()
        """A command that runs its programs somewhere else, as its user."""

    def configure(self, *settings: str) -> None:
        """Add lines to its settings, for the next start."""
        with (self.data / "postgresql.conf").open("a") as config:
            config.write("".join(f"{setting}\n" for setting in settings))

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.run("pg_ctl", "start", "-w", "-t", "120", "-D", self.data)

    def stop(self, mode: str = "fast") -> None:
        """Stop it, and wait until it has."""
        self.run("pg_ctl", "stop", "-w", "-t", "120", "-m", mode, "-D", self.data)

    def restart(self, mode: str) -> None:
        """Stop it so, and start it again."""
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

    def logged(self, what: str) -> int:
        """How often something stands in its log."""
        return (self.home / "log").read_text(errors="replace").count(what)


OwnServers = Callable[..., OwnServer]
"""Starts one: settings, and `within`, if it is to run in a network namespace."""


@contextmanager
def pristine_home() -> Iterator[Pristine]:
    """Create a server once, for all tests that want one of their own."""
    home = new_folder()
    try:
        with running_server(home, version=POSTGRES_VERSION) as server:
            schema.bring_up(db.Database(server.connect_args, "a new database"))
            pid = (home / "data" / "postmaster.pid").read_text().splitlines()[0]
            programs = Path(f"/proc/{pid}/exe").resolve().parent  # where the server's user can run them
        yield Pristine(home, programs)
    finally:
        shutil.rmtree(home)


@contextmanager
def running(pristine: Pristine, settings: Sequence[str], *, within: str = "") -> Iterator[OwnServer]:
    """A copy of it with these settings, for as long as it is needed; in a network namespace, if one is named."""
    server = OwnServer(new_folder(), pristine.programs)
    if within:
        owner = pristine.data.stat()
        server.within = ("nsenter", f"--net=/run/netns/{within}", "-S", str(owner.st_uid), "-G", str(owner.st_gid))
    try:
        subprocess.run(["cp", "-a", f"{pristine.home}/.", server.home], check=True)
        # These servers crash, but never the machine below them, so nothing depends on fsync; it makes a test slow.
        server.configure(f"unix_socket_directories = '{server.home}'", "fsync = off", *settings)
        server.start()
        yield server
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop("immediate")
        shutil.rmtree(server.home)
