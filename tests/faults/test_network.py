"""Many hosts and one server: network namespaces, TCP between them, and links that are cut.

A namespace has its own interfaces, addresses, routes and sockets, as a host has. The hosts reach
the server over a bridge. A pulled cable is a port of that bridge set down: packets vanish without a
notice to either side.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from payproc.db.connection import LOST_AFTER_SECONDS
from tests.support.command import COMMAND, Payproc, RunningCommand
from tests.support.concurrency import NOT_RECORDED, shares
from tests.support.postgres import Sql, assert_books_right, wait_for
from tests.support.reports import assert_decisions_recorded, assert_verified, read_decisions
from tests.support.servers import IS_ROOT, OwnServer, OwnServers
from tests.support.tally import count
from tests.support.workload import messy_day

IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
HOSTS = 4
NETWORK = "10.213.0"
SERVER_ADDRESS = f"{NETWORK}.1"

IMPATIENT = {
    "connect_timeout": "2",
    "keepalives_idle": "1",
    "keepalives_interval": "1",
    "keepalives_count": "2",
    "tcp_user_timeout": "3000",
}
"""URL parameters that shorten the wait for a dead connection from a minute to seconds."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_ROOT, reason="network namespaces can be made only by root: run this once as root"),
    pytest.mark.skipif(not IP or not shutil.which("nsenter"), reason="needs `ip` and `nsenter`: Debian's iproute2"),
]


class Network:
    """The namespace of a server and those of its hosts, each with a link to it."""

    def __init__(self) -> None:
        self.name = f"payproc-{os.getpid()}"
        self._made: list[str] = []
        self.server = self._namespace("server")
        self._ip("-n", self.server, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", self.server, "address", "add", f"{SERVER_ADDRESS}/24", "dev", "bridge")
        self._ip("-n", self.server, "link", "set", "bridge", "up")
        self.hosts = [self._host(number) for number in range(HOSTS)]

    def _namespace(self, name: str) -> str:
        full = f"{self.name}-{name}"
        self._ip("netns", "add", full)
        self._made.append(full)
        self._ip("-n", full, "link", "set", "lo", "up")
        return full

    def _host(self, number: int) -> str:
        host = self._namespace(f"host{number}")
        port = f"port{number}"
        self._ip("-n", self.server, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
        self._ip("-n", self.server, "link", "set", port, "master", "bridge", "up")
        self._ip("-n", host, "address", "add", f"{NETWORK}.{10 + number}/24", "dev", "eth0")
        self._ip("-n", host, "link", "set", "eth0", "up")
        return host

    def cut(self, number: int) -> None:
        """Pull a host's cable."""
        self._ip("-n", self.server, "link", "set", f"port{number}", "down")

    def mend(self, number: int) -> None:
        """Plug the cable in again, and wait until the host reaches the server."""
        self._ip("-n", self.server, "link", "set", f"port{number}", "up")
        reach = f"import socket; socket.create_connection(('{SERVER_ADDRESS}', 5432), 1)"
        command = [*self.inside(number), sys.executable, "-c", reach]
        wait_for(lambda: subprocess.run(command, check=False, capture_output=True).returncode == 0)

    def connections(self, number: int) -> int:
        """Return the number of connections that a host takes for open."""
        shown = self.run(number, ["cat", "/proc/self/net/tcp"]).splitlines()[1:]
        established = "01"
        return sum(line.split()[3] == established for line in shown)

    def inside(self, number: int) -> list[str]:
        """Return the prefix that runs a command on a host."""
        return ["nsenter", f"--net=/run/netns/{self.hosts[number]}"]

    def run(self, number: int, command: list[str]) -> str:
        """Run a command on a host; return its output."""
        return subprocess.run([*self.inside(number), *command], check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """Delete the namespaces, and with them the links."""
        for name in self._made:
            with suppress(subprocess.CalledProcessError):
                self._ip("netns", "delete", name)

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run([IP or "", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    """A network for one test."""
    with closing(Network()) as network:
        yield network


@pytest.fixture
def server(network: Network, own_server: OwnServers) -> OwnServer:
    """A server that listens on the address of its namespace."""
    server = own_server(f"listen_addresses = '{SERVER_ADDRESS}'", within=network.server)
    with (server.data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {NETWORK}.0/24 trust\n")
    server.restart("fast")
    return server


@pytest.fixture
def sql(server: OwnServer) -> Iterator[Sql]:
    """SQL on the server over its Unix socket, which no cable can cut."""
    with closing(Sql(server.url)) as sql:
        yield sql


class Hosts:
    """The command on each host. Processes still running at the end are killed."""

    def __init__(self, network: Network, payproc: Payproc, processes: ExitStack) -> None:
        self.network, self.payproc, self._processes = network, payproc, processes

    def start(self, number: int, *arguments: str, url: URL, stdin: int = subprocess.DEVNULL) -> RunningCommand:
        """Start the command on one host."""
        rendered = url.render_as_string(hide_password=False)
        options: dict[str, Any] = {"stdin": stdin, "env": {"DATABASE_URL": rendered}}
        prefix, *more = self.network.inside(number)
        process = self.payproc.start(*more, COMMAND, *arguments, command=prefix, **options)
        self._processes.enter_context(process)
        self._processes.callback(process.kill)
        return process

    def ingest(self, number: int, url: URL, stdin: int = subprocess.DEVNULL) -> RunningCommand:
        """Start an ingest of the host's file, and then of its standard input."""
        files = (f"{number}.jsonl", "-", "--decisions", f"{number}.decisions")
        return self.start(number, "ingest", *files, "--quiet", url=url, stdin=stdin)

    def reported(self, number: int) -> list[dict[str, Any]]:
        """Return the whole decision lines about events that a host has written."""
        decisions = read_decisions(self.payproc.folder / f"{number}.decisions")
        return [decision for decision in decisions if "event_id" in decision]


@pytest.fixture
def hosts(network: Network, tmp_path: Path) -> Iterator[Hosts]:
    """The hosts of the network."""
    with ExitStack() as processes:
        yield Hosts(network, Payproc(tmp_path, None), processes)


UNDER_WAY = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CALL payproc.%%'"


def assert_recorded_at_most_once(decisions: list[dict[str, Any]]) -> None:
    """Check that at most one decision about an event_id reports it as recorded."""
    recorded = [decision["event_id"] for decision in decisions if decision["reason"] not in NOT_RECORDED]
    assert len(recorded) == len(set(recorded))


def over_tcp(**parameters: str) -> URL:
    """Return the URL of the server as a host reaches it."""
    return URL.create(
        "postgresql", "payproc", host=SERVER_ADDRESS, database="postgres", query={"sslmode": "disable", **parameters}
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_cut_host_loses_nothing_reported(network: Network, hosts: Hosts, sql: Sql, tmp_path: Path, seed: int) -> None:
    """Hosts ingest at the same time, and one loses its link.

    The others notice nothing, and its rerun completes the job.
    """
    chance = random.Random(seed)
    day = messy_day(seed, 6000)
    parts = [day, *shares(day, chance, HOSTS - 1)]
    for number, part in enumerate(parts):
        (hosts.payproc.folder / f"{number}.jsonl").write_bytes(b"\n".join(line.raw for line in part))
    cut_off = hosts.ingest(0, over_tcp(**IMPATIENT), stdin=subprocess.PIPE)
    processes = [cut_off, *[hosts.ingest(number, over_tcp()) for number in range(1, HOSTS)]]
    moment = chance.randrange(1, 1000)
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.runs WHERE '0.jsonl' = ANY (sources)"))
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") > moment)
    network.cut(0)
    # One more event, so that work is left however far the process has come.
    _, stderr = cut_off.communicate(next(line.raw for line in day if line.fact is not None), timeout=120)
    others = [process.communicate(timeout=120) for process in processes[1:]]
    malformed = [any(line.fact is None and not line.is_blank for line in part) for part in parts]
    assert [process.returncode for process in processes] == [1, *[3 if each else 0 for each in malformed[1:]]], others
    *listed, last = stderr.decode().splitlines()
    assert last.startswith(f"payproc: cannot reach the database postgresql://payproc@{SERVER_ADDRESS}/postgres: ")
    assert all(row.startswith(("0.jsonl:", "… and ")) for row in listed)
    # The server finishes the calls that it received before the cut.
    wait_for(lambda: not sql.value(UNDER_WAY))

    of_the_cut = hosts.reported(0)
    assert_decisions_recorded(of_the_cut, sql)
    assert_books_right(sql)

    network.mend(0)
    rerun = hosts.start(0, "ingest", "0.jsonl", "--quiet", "--decisions", "rerun.decisions", url=over_tcp())
    _, stderr = rerun.communicate(timeout=120)
    assert rerun.returncode == 3, stderr.decode()
    events = {line.fact.event_id for line in day if line.fact is not None}
    assert {event_id for (event_id,) in sql.rows("SELECT event_id FROM payproc.events")} == events
    assert_books_right(sql)
    assert_verified(Payproc(tmp_path, sql.url))
    whole = [hosts.reported(number) for number in range(1, HOSTS)]
    assert_recorded_at_most_once([*of_the_cut, *[decision for decisions in whole for decision in decisions]])
    assert sql.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    count("hosts at once on the same payments", HOSTS)
    count("hosts whose link was cut in mid-run")


def test_lost_answer_is_found_recorded(network: Network, hosts: Hosts, sql: Sql) -> None:
    """The link is cut while the server works on a CALL, so its answer never arrives.

    The client reconnects later.
    """
    one, other = (
        json.dumps({"event_id": f"e{n}", "payment_id": "p1", "type": kind}).encode()
        for n, kind in enumerate(("authorize", "capture"))
    )
    (hosts.payproc.folder / "0.jsonl").write_bytes(one)
    (hosts.payproc.folder / "1.jsonl").write_bytes(other)
    assert hosts.ingest(0, over_tcp()).wait(timeout=60) == 0
    with sql.locked_payment("p1"):
        waiting = hosts.ingest(1, over_tcp(**IMPATIENT))
        sql.wait_for_blocked()
        network.cut(1)
    wait_for(lambda: sql.value("SELECT count(*) FROM payproc.events") == 2)
    wait_for(lambda: not network.connections(1))
    assert waiting.poll() is None, "the client gave up instead of reconnecting"
    network.mend(1)
    _, stderr = waiting.communicate(timeout=60)
    assert (waiting.returncode, stderr) == (0, b"")
    (decision,) = hosts.reported(1)
    assert (decision["event_id"], decision["outcome"], decision["reason"]) == ("e1", "APPLY", "transition")
    assert_books_right(sql)
    count("hosts whose link was cut while they waited for an answer")


def test_dead_connection_timeout_follows_the_url(network: Network, server: OwnServer) -> None:
    """A connection is dead after a minute of silence by default."""
    script = (
        "import socket, sys\n"
        "from payproc.db.connection import Database\n"
        "from payproc.db.location import parse_url\n"
        "connection = Database(parse_url(sys.argv[1], 'URL'), 'a server').connect()\n"
        "lost = socket.socket(fileno=connection.fileno())\n"
        "print([lost.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,"
        " socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)], lost.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))"
        "; lost.detach()"
    )
    for url, expected in (
        (over_tcp(), [30, 10, 3, LOST_AFTER_SECONDS * 1000]),
        (over_tcp(**IMPATIENT), [1, 1, 2, 3_000]),
    ):
        rendered = url.render_as_string(hide_password=False)
        assert network.run(2, [sys.executable, "-c", script, rendered]) == f"{expected} 1\n"
