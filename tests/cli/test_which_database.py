"""The database of a command, and its name in messages: URLs, variables of libpq, or none at all."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.command import COMMAND, Finished, Payproc
from tests.support.events import event_line
from tests.support.in_process import InProcess
from tests.support.servers import OwnServer, OwnServers, find_free_port

DEAD_ADDRESS = "127.0.0.1:1"
"""An address without a listener."""


# ---- URLs: the name of the server at the other end -----------------------------------------------


@pytest.fixture
def tcp_server(own_server: OwnServers) -> tuple[OwnServer, int]:
    """A server on a TCP port, and on a socket of the same number."""
    port = find_free_port()
    return own_server("listen_addresses = '127.0.0.1'", f"port = {port}"), port


class Example(NamedTuple):
    """A URL and variables of libpq, and the name of the database that they lead to."""

    url: str
    environment: dict[str, str]
    name: str


def build_examples(folder: Path, port: int) -> list[Example]:
    """Return examples that all lead to the server with this socket folder and port."""
    by_socket = f"postgresql://payproc@{folder}:{port}/postgres"
    by_tcp = f"postgresql://payproc@127.0.0.1:{port}/postgres"
    hosts = f"{DEAD_ADDRESS},127.0.0.1:{port}"
    addresses = f"a:{port},b:{port}/postgres?hostaddr=127.0.0.2,127.0.0.1"
    everything = {"PGHOST": str(folder), "PGPORT": str(port), "PGUSER": "payproc", "PGDATABASE": "postgres"}
    services = {"PGSERVICEFILE": str(folder / "services")}
    (folder / "services").write_text(f"[books]\nhost={folder}\nport={port}\nuser=payproc\ndbname=postgres\n")
    return [
        Example("postgresql://", everything, by_socket),
        Example("postgresql:///postgres", everything, by_socket),
        Example("postgresql://payproc@db.invalid/postgres", {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(port)}, by_tcp),
        Example("postgresql://db.invalid/postgres", {**everything, "PGHOSTADDR": "127.0.0.1"}, by_tcp),
        Example(f"postgresql://payproc@{hosts}/postgres", {}, by_tcp),
        Example(f"postgresql://payproc@{addresses}", {}, by_tcp),
        Example("postgresql://?service=books", services, by_socket),
        Example("postgresql://", {"PGSERVICE": "books", **services}, by_socket),
    ]


@pytest.mark.slow
def test_url_gets_the_name_of_its_server(tcp_server: tuple[OwnServer, int], tmp_path: Path) -> None:
    """The summary, the note and a message about a missing payment use the same name."""
    server, port = tcp_server
    payproc = Payproc(tmp_path, None)
    for number, (url, environment, name) in enumerate(build_examples(server.home, port)):
        options = ("--format", "json", "--database-url", url)
        line = event_line(f"e{number}", "p", "fail")
        finished = payproc("ingest", *options, env=environment, stdin=line)
        assert finished.stderr == f"payproc: database {name} (from --database-url)\n"
        assert (finished.code, json.loads(finished.stdout)["database"]) == (0, name)
    environment = {"PGHOST": str(server.home), "PGPORT": str(port), "PGUSER": "payproc"}
    finished = payproc("show", "p9", "--database-url", "postgresql:///postgres", env=environment)
    assert f"in the database postgresql://payproc@{server.home}:{port}/postgres\n" in finished.stderr


UNREACHABLE = [
    Example("postgresql:///d", {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "u"}, "postgresql://u@127.0.0.1:1/d"),
    Example(
        "postgresql://", {"PGHOSTADDR": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "d"}, "postgresql://127.0.0.1:1/d"
    ),
    Example("postgresql://u@h.invalid:1/d", {"PGHOSTADDR": "127.0.0.1"}, "postgresql://u@127.0.0.1:1/d"),
    Example("postgresql://[::1]:1/d", {}, "postgresql://[::1]:1/d"),
    Example("postgresql://", {"PGSERVICE": "books", "PGHOST": "h"}, "postgresql:///?service=books"),
    Example("postgresql:///d?user=u", {"PGHOST": "/nowhere"}, "postgresql://u@/nowhere/d"),
]


@pytest.mark.parametrize("example", UNREACHABLE, ids=[example.name for example in UNREACHABLE])
def test_unreachable_url_is_named_as_by_libpq(tmp_path: Path, example: Example) -> None:
    environment = {"PGSERVICEFILE": os.devnull, **example.environment}
    finished = InProcess(tmp_path, None)("runs", "--database-url", example.url, env=environment)
    note, error = finished.stderr.splitlines()
    assert finished.code == 1
    assert note == f"payproc: database {example.name} (from --database-url)"
    assert error.startswith(f"payproc: cannot reach the database {example.name}: ")


# ---- No database is named ------------------------------------------------------------------------


def test_forbidden_embedded_needs_a_url(tmp_path: Path) -> None:
    run = InProcess(tmp_path, None)
    for command in (["init"], ["ingest", "-q"], ["show", "p"], ["runs"]):
        finished = run(*command, env={"PAYPROC_EMBEDDED": "never"})
        assert (finished.code, finished.stdout) == (2, "")
        assert finished.stderr == (
            "payproc: no database is named, and PAYPROC_EMBEDDED=never forbids the embedded one; name one with "
            "--database-url, DATABASE_URL, or DATABASE_URL in .env\n"
        )
    message = 'payproc: PAYPROC_EMBEDDED: unknown "no", expected never or nothing\n'
    assert run("init", env={"PAYPROC_EMBEDDED": "no"}) == (2, "", message)
    assert not Path(run.environment["PAYPROC_HOME"]).exists()


def test_forbidden_embedded_allows_a_url(run_in_process: InProcess) -> None:
    assert run_in_process("runs", "-q", env={"PAYPROC_EMBEDDED": "never"}).code == 0


# ---- A deleted working directory -----------------------------------------------------------------


def run_in_deleted_folder(payproc: Payproc, *arguments: str, **environment: str) -> Finished:
    """Run a command in a working directory that was deleted before."""
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@"'
    return payproc("-c", script, COMMAND, *arguments, command="bash", env=environment, stdin=b"")


def test_relative_home_in_deleted_folder_is_refused(tmp_path: Path) -> None:
    finished = run_in_deleted_folder(Payproc(tmp_path, None), "init", PAYPROC_HOME="rel")
    assert (finished.code, finished.stderr) == (
        1,
        "payproc: the embedded database cannot use rel: the working directory does not exist any more; set "
        "PAYPROC_HOME to a full path\n",
    )


def test_relative_file_in_deleted_folder_is_missing(payproc: Payproc) -> None:
    missing = "No such file or directory"
    finished = run_in_deleted_folder(payproc, "ingest", "day.jsonl")
    assert (finished.code, finished.stderr) == (2, f"payproc: day.jsonl: cannot be read: {missing}\n")
    for option in ("--decisions", "--malformed"):
        finished = run_in_deleted_folder(payproc, "ingest", option, "x")
        assert (finished.code, finished.stderr) == (2, f"payproc: {option}: x cannot be written: {missing}\n")


def test_command_works_in_deleted_folder(payproc: Payproc) -> None:
    for command in (["ingest", "--quiet"], ["runs", "--quiet"], ["export", "--quiet"], ["rules"]):
        finished = run_in_deleted_folder(payproc, *command)
        assert (finished.code, finished.stderr) == (0, "")
