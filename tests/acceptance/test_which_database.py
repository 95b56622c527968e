"""Which database a command talks to, and under which name: URLs, PG* variables, the embedded one or none."""

import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from payproc.db.location import open_database
from payproc.embedded.server import running_server
from payproc.notes import drop_note
from tests.support.command import Payproc
from tests.support.events import event_line
from tests.support.servers import OwnServer, OwnServers

NOWHERE = "127.0.0.1:1"
"""A port that nothing listens on."""


# ---- The embedded database, whatever the environment says about others ----------------------------


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of the embedded server, which runs for as long as the tests here do."""
    folder = Path(tempfile.mkdtemp(prefix="payproc-tests-"))
    with running_server(folder):
        yield folder
    shutil.rmtree(folder)


def variables_of_libpq() -> list[str]:
    """The environment variables that the libpq of this process reads, as its own text has them."""
    (library,) = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if re.search(r"/libpq[-.]", line)
    }
    found = re.findall(rb"(?<=\0)PG[A-Z]{2,}(?=\0)", Path(library).read_bytes())
    assert {b"PGHOST", b"PGHOSTADDR", b"PGSERVICE", b"PGTZ"} <= set(found)
    return sorted({name.decode() for name in found})


HOSTILE = {"PGHOSTADDR": "127.0.0.1", "PGPORT": "1", "PGHOST": "nowhere.invalid", "PGOPTIONS": "-c no_such=1"}
"""Values that lead elsewhere or nowhere; any other variable is given one that libpq or the server refuses."""


@pytest.mark.parametrize("variable", [*variables_of_libpq(), "all of them"])
def test_no_variable_of_libpq_leads_away_from_the_embedded_database(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    names = variables_of_libpq() if variable == "all of them" else [variable]
    for name in names:
        monkeypatch.setenv(name, HOSTILE.get(name, "hostile"))
    monkeypatch.setenv("PAYPROC_HOME", str(home))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(home)
    with open_database(None, drop_note) as database, closing(database.connect()) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('data_directory'), current_user, inet_server_addr()")
            assert cursor.fetchall() == [(str(home / "data"), "payproc", None)]
        assert database.where == str(home)


def test_with_every_variable_of_libpq_set_a_command_records_in_the_embedded_database(
    home: Path, tmp_path: Path
) -> None:
    payproc = Payproc(tmp_path, None)
    payproc.environment["PAYPROC_HOME"] = str(home)
    hostile = {name: HOSTILE.get(name, "hostile") for name in variables_of_libpq()}
    finished = payproc("ingest", "--format", "json", stdin=event_line("e1", "p1", "authorize"), env=hostile)
    assert finished.code == 0, finished
    assert json.loads(finished.stdout)["database"] == str(home)
    assert "p1 is authorized" in payproc("show", "p1").stdout


def test_the_embedded_database_needs_no_password_file(home: Path, tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    password_file = payproc.folder / ".pgpass"
    password_file.write_text("*:*:*:*:s3cret\n")
    password_file.chmod(0o644)
    assert payproc("init", "--quiet", env={"PAYPROC_HOME": str(home)}).stderr == ""


# ---- URLs: the name of the server that was really connected to ------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@pytest.fixture
def tcp_server(own_server: OwnServers) -> tuple[OwnServer, int]:
    """A server on a TCP port, and on a socket of the same number."""
    port = free_port()
    return own_server("listen_addresses = '127.0.0.1'", f"port = {port}"), port


def test_a_url_is_named_after_the_server_connected_to(tcp_server: tuple[OwnServer, int], tmp_path: Path) -> None:
    server, port = tcp_server
    folder = server.home
    (folder / "services").write_text(f"[books]\nhost={folder}\nport={port}\nuser=payproc\ndbname=postgres\n")
    dead, live = NOWHERE, f"127.0.0.1:{port}"
    by_socket = f"postgresql://payproc@{folder}:{port}/postgres"
    by_tcp = f"postgresql://payproc@127.0.0.1:{port}/postgres"
    everything = {"PGHOST": str(folder), "PGPORT": str(port), "PGUSER": "payproc", "PGDATABASE": "postgres"}
    payproc = Payproc(tmp_path, None)
    for number, (url, environment, name) in enumerate(
        [
            ("postgresql://", everything, by_socket),
            ("postgresql:///postgres", everything, by_socket),
            ("postgresql://payproc@db.invalid/postgres", {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(port)}, by_tcp),
            ("postgresql://db.invalid/postgres", {**everything, "PGHOSTADDR": "127.0.0.1"}, by_tcp),
            (f"postgresql://payproc@{dead},{live}/postgres", {}, by_tcp),
            (f"postgresql://payproc@a:{port},b:{port}/postgres?hostaddr=127.0.0.2,127.0.0.1", {}, by_tcp),
            ("postgresql://?service=books", {"PGSERVICEFILE": str(folder / "services")}, by_socket),
            ("postgresql://", {"PGSERVICE": "books", "PGSERVICEFILE": str(folder / "services")}, by_socket),
        ]
    ):
        finished = payproc(
            "ingest",
            "--format",
            "json",
            "--database-url",
            url,
            env=environment,
            stdin=event_line(f"e{number}", "p", "fail"),
        )
        assert finished.stderr == f"payproc: database {name} (from --database-url)\n"
        assert (finished.code, json.loads(finished.stdout)["database"]) == (0, name)


def test_a_message_names_the_server_connected_to(tcp_server: tuple[OwnServer, int], tmp_path: Path) -> None:
    server, port = tcp_server
    environment = {"PGHOST": str(server.home), "PGPORT": str(port), "PGUSER": "payproc"}
    finished = Payproc(tmp_path, None)("show", "p9", "--database-url", "postgresql:///postgres", env=environment)
    assert f"in the database postgresql://payproc@{server.home}:{port}/postgres\n" in finished.stderr


@pytest.mark.parametrize(
    ("url", "environment", "name"),
    [
        ("postgresql:///d", {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "u"}, "postgresql://u@127.0.0.1:1/d"),
        ("postgresql://", {"PGHOSTADDR": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "d"}, "postgresql://127.0.0.1:1/d"),
        ("postgresql://u@h.invalid:1/d", {"PGHOSTADDR": "127.0.0.1"}, "postgresql://u@127.0.0.1:1/d"),
        ("postgresql://[::1]:1/d", {}, "postgresql://[::1]:1/d"),
        ("postgresql://", {"PGSERVICE": "books", "PGHOST": "h"}, "postgresql:///?service=books"),
        ("postgresql:///d?user=u", {"PGHOST": "/nowhere"}, "postgresql://u@/nowhere/d"),
    ],
)
def test_an_unreachable_database_is_named_as_libpq_would_look_for_it(
    tmp_path: Path, url: str, environment: dict[str, str], name: str
) -> None:
    payproc = Payproc(tmp_path, None)
    finished = payproc("runs", "--database-url", url, env={"PGSERVICEFILE": os.devnull, **environment})
    note, error = finished.stderr.splitlines()
    assert finished.code == 1
    assert note == f"payproc: database {name} (from --database-url)"
    assert error.startswith(f"payproc: cannot reach the database {name}: ")


# ---- No database is named -------------------------------------------------------------------------


def test_where_the_embedded_database_is_forbidden_one_has_to_be_named(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    for command in (["init"], ["ingest", "-q"], ["show", "p"], ["runs"]):
        finished = payproc(*command, env={"PAYPROC_EMBEDDED": "never"}, stdin=b"")
        assert (finished.code, finished.stdout) == (2, "")
        assert finished.stderr == (
            "payproc: no database is named, and PAYPROC_EMBEDDED=never forbids the embedded one; name one with "
            "--database-url, DATABASE_URL, or DATABASE_URL in .env\n"
        )
    assert payproc("init", env={"PAYPROC_EMBEDDED": "no"}) == (
        2,
        "",
        'payproc: PAYPROC_EMBEDDED: unknown "no", expected never or nothing\n',
    )
    assert not Path(payproc.environment["PAYPROC_HOME"]).exists()


def test_a_forbidden_embedded_database_is_no_matter_where_another_is_named(payproc: Payproc) -> None:
    assert payproc("runs", "-q", env={"PAYPROC_EMBEDDED": "never"}).code == 0


def test_that_an_embedded_database_is_created_is_said_even_if_quiet(tmp_path: Path) -> None:
    payproc = Payproc(tmp_path, None)
    home = Path(tempfile.mkdtemp(prefix="payproc-tests-"))
    payproc.environment["PAYPROC_HOME"] = str(home)
    try:
        said = payproc("ingest", "--quiet", stdin=b"").stderr
        assert said == f"payproc: creating the embedded database in {home}, because no other database is named\n"
        assert payproc("ingest", "--quiet", stdin=b"").stderr == ""
    finally:
        shutil.rmtree(home)


# ---- A working directory that is gone -------------------------------------------------------------


@pytest.fixture
def gone(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command in a working directory that was deleted before; gives its exit code and stderr."""

    def run(*arguments: str, **environment: str) -> tuple[int, str]:
        payproc = Payproc(tmp_path, None)
        script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@"'
        finished = payproc("-c", script, COMMAND, *arguments, command="bash", env=environment, stdin=b"")
        return finished.code, finished.stderr

    return run


COMMAND = Path(sys.executable).with_name("payproc")


def test_a_relative_home_in_a_deleted_folder_is_refused_with_the_true_reason(gone: Callable[..., Any]) -> None:
    assert gone("init", PAYPROC_HOME="rel") == (
        1,
        "payproc: the embedded database cannot use rel: the working directory does not exist any more; set "
        "PAYPROC_HOME to a full path\n",
    )


def test_relative_files_in_a_deleted_folder_are_not_there(gone: Callable[..., Any], home: Path) -> None:
    missing = "No such file or directory"
    given = {"PAYPROC_HOME": str(home)}
    assert gone("ingest", "day.jsonl", **given) == (2, f"payproc: day.jsonl: cannot be read: {missing}\n")
    for option in ("--decisions", "--malformed"):
        assert gone("ingest", option, "x", **given) == (2, f"payproc: {option}: x cannot be written: {missing}\n")


def test_a_command_without_relative_names_works_in_a_deleted_folder(gone: Callable[..., Any], home: Path) -> None:
    for command in (["ingest", "--quiet"], ["runs", "--quiet"], ["export", "--quiet"], ["rules"]):
        assert gone(*command, PAYPROC_HOME=str(home)) == (0, "")
