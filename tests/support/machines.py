"""Machines of a cluster that runs on this host: killed at once, and started again."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.citus import MACHINES
from tests.support.postgres import MAX_WAIT_SECONDS, Server, Sql, wait_for
from tests.support.servers import as_owner_of

MAX_RECOVERY_SECONDS = 120
"""Seconds until Citus has settled every transaction in doubt. It looks once a minute by default."""


class Machine:
    """One machine, and the way in which its server was started."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.name = f"{server.url.host}:{server.url.port or 5432}"
        if server.url.host not in ("127.0.0.1", "localhost", "::1"):
            pytest.skip("needs a cluster on this host")
        with closing(Sql(self.url)) as sql:
            self._data = Path(sql.value("SELECT current_setting('data_directory')"))
        process = self._process()
        try:
            programs = (process / "exe").readlink().parent
            log = (process / "fd/2").readlink()
            environment = (process / "environ").read_bytes().split(b"\0")
        except PermissionError:
            pytest.skip("needs root, or the user of the cluster")
        self._environment = dict(each.decode().split("=", 1) for each in environment if each)
        options = (process / "cmdline").read_text().split("\0")[1:-1]
        if "-D" in options:
            del options[options.index("-D") : options.index("-D") + 2]
        self._start: list[str | Path] = [programs / "pg_ctl", "start", "-w", "-t", str(MAX_WAIT_SECONDS)]
        self._start += ["-D", self._data, "-l", log if log.is_file() else "/dev/null", "-o", shlex.join(options)]

    def _process(self) -> Path:
        """Return the folder of the server's process."""
        return Path("/proc") / (self._data / "postmaster.pid").read_text().split()[0]

    def kill(self) -> None:
        """Kill all processes of the server at once, as if the machine had stopped."""
        server = int(self._process().name)
        os.kill(server, signal.SIGSTOP)  # so that it starts no more of them
        pids = [server, *_children_of(server)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    def start(self) -> None:
        """Start the server, and wait until it has recovered."""
        subprocess.run(
            self._start,
            check=True,
            cwd=self._data,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # the server's log has the reason
            **as_owner_of(self._data),
        )

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kill it, and start it again."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def in_doubt(self, url: URL) -> set[str]:
        """Return the prepared transactions of a database that nobody is about to end."""
        with closing(Sql(self.url)) as sql:
            query = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
            before = set(sql.rows(query, url.database))
            time.sleep(0.1 if before else 0)  # an undisturbed one is ended within milliseconds
            return {gid for (gid,) in before & set(sql.rows(query, url.database))}


def local_machines() -> list[Machine]:
    """Return the coordinator and the workers. Skips the test if they run elsewhere."""
    return [Machine(server) for server in MACHINES]


def wait_for_recovery(machines: list[Machine], url: URL) -> None:
    """Wait for the commits that the coordinator still makes for dead clients.

    Then wait until Citus has ended the transactions in doubt on all machines.
    """
    with closing(Sql(url)) as sql:
        wait_for(lambda: sql.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'payproc'") == 0)
    deadline = time.monotonic() + MAX_RECOVERY_SECONDS
    while found := [gid for machine in machines for gid in machine.in_doubt(url)]:
        assert time.monotonic() < deadline, f"still in doubt: {found}"
        time.sleep(0.2)


def _children_of(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    children = (Path("/proc") / str(parent) / "task" / str(parent) / "children").read_text()
    return [int(pid) for pid in children.split()]
