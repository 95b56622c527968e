"""Crashes of the server, failed starts, and the files that they leave."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest

from payproc.embedded.server import run_server
from tests.support.homes import (
    Holder,
    authorize,
    configure,
    connect,
    is_running,
    read_mode,
    read_pid_file,
    read_refusal,
    read_server_process,
    read_state,
    succeed,
    write_as_owner,
    write_pid_file,
)
from tests.support.postgres import wait_for


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)])
def test_crash_recovers_with_next_command(made_home: Path, number: int) -> None:
    """The next command comes while processes of the server are left, with a zombie as parent."""
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    with run_server(made_home) as server:
        connection = connect(server)
        os.kill(read_server_process(made_home), number)
        assert read_state(made_home, "p1") == "authorized"
        connection.close()
    assert not is_running(made_home)


@pytest.mark.slow
def test_server_that_hangs_while_stopping_is_ended(made_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped checkpointer never writes the last checkpoint. PostgreSQL kills it after 5 s."""
    monkeypatch.setattr("payproc.embedded.postmaster.STOP_SECONDS", 1)
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    with run_server(made_home) as server, closing(connect(server)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        ((checkpointer,),) = cursor.fetchall()
        os.kill(checkpointer, signal.SIGSTOP)
    assert not is_running(made_home)
    assert read_state(made_home, "p1") == "authorized"


@pytest.mark.parametrize("status", ["starting", pytest.param("ready", marks=pytest.mark.slow)])
def test_stale_pid_file_is_no_obstacle(made_home: Path, status: str) -> None:
    """By now another process has the number, here this test."""
    write_pid_file(made_home, made_home, status)
    succeed(made_home, "init")
    assert not is_running(made_home)


@pytest.mark.slow
def test_socket_folder_ends_with_the_server(made_long_home: Path) -> None:
    """After a crash, the next command removes it."""
    holder = Holder(made_long_home).wait_until_connected()
    socket_folder = Path(read_pid_file(made_long_home)[4])
    assert socket_folder.parent == Path("/tmp")
    assert read_mode(socket_folder) == 0o700
    os.kill(read_server_process(made_long_home), signal.SIGKILL)
    holder.kill()
    assert socket_folder.exists()

    holder = Holder(made_long_home).wait_until_connected()
    assert not socket_folder.exists()
    socket_folder = Path(read_pid_file(made_long_home)[4])
    assert holder.end() == 0
    assert not socket_folder.exists()


def test_failed_start_is_explained(made_home: Path) -> None:
    configure(made_home, "shared_buffers = lots")
    message = read_refusal(made_home)
    assert message.startswith(f"the embedded database in {made_home} did not start: ")
    assert message.endswith(f'"{made_home}/data/postgresql.conf" contains errors (see {made_home}/log)')


@pytest.mark.skipif(sys.platform != "linux", reason="signals have other numbers elsewhere")
def test_killed_start_names_the_signal(made_home: Path) -> None:
    """The start waits in a command of its recovery, which ends with the server."""
    waiting = "while kill -0 $(head -n 1 postmaster.pid); do sleep 0.1; done"
    configure(made_home, f"restore_command = '{waiting}'", "recovery_target = 'immediate'")
    write_as_owner(made_home / "data" / "recovery.signal", "")
    command = Holder(made_home)
    wait_for(lambda: read_pid_file(made_home))
    os.kill(read_server_process(made_home), signal.SIGXCPU)
    assert command.read_last_line() == (
        f"payproc: the embedded database in {made_home} did not start: "
        "it was killed by signal 24 (processor time limit, ulimit -t)"
    )
    assert command.end() == 1
    wait_for(lambda: not is_running(made_home))
