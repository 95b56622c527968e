"""Sharing: commands use one server, and the last of them stops it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from payproc.embedded.server import run_server
from tests.support.command import COMMAND
from tests.support.containers import in_namespaces
from tests.support.homes import (
    PATIENCE_SECONDS,
    Holder,
    authorize,
    build_environment,
    connect,
    count_starts,
    is_running,
    read_pid_file,
    read_server_process,
    read_state,
    succeed,
)
from tests.support.postgres import wait_for


@pytest.mark.parametrize("which", ["made_home", pytest.param("home", marks=pytest.mark.slow)])
def test_commands_at_once_share_one_server(which: str, request: pytest.FixtureRequest) -> None:
    """One command creates the database or starts its server, all use it, the last one stops it."""
    home: Path = request.getfixturevalue(which)
    before = count_starts(home) if home.exists() else 0
    commands = [Holder(home) for _ in range(4)]
    for number, command in enumerate(commands):
        assert command.end(authorize(f"p{number}")) == 0
    assert not is_running(home)
    assert count_starts(home) - before in range(1, 5)  # a command after the last one left started it again
    with run_server(home) as server:
        connection = connect(server)
        with connection.cursor() as cursor:
            cursor.execute("SELECT payment_id, state FROM payproc.payments ORDER BY payment_id")
            assert cursor.fetchall() == [(f"p{number}", "authorized") for number in range(4)]
        connection.close()


@pytest.mark.parametrize("is_first", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["first", "second"])
def test_leave_by_ctrl_c_spares_others(made_home: Path, is_first: bool) -> None:
    """Ctrl-C ends one command. The server stays for the other, even if its starter left."""
    first = Holder(made_home).wait_until_connected()
    second = Holder(made_home).wait_until_connected()
    server = read_server_process(made_home)
    leaving, staying = (first, second) if is_first else (second, first)
    os.killpg(leaving.process.pid, signal.SIGINT)
    assert leaving.end() == 128 + signal.SIGINT
    assert read_server_process(made_home) == server
    assert staying.end(authorize("p1")) == 0
    assert not is_running(made_home)
    assert count_starts(made_home) == 2  # one of them made the template
    assert read_state(made_home, "p1") == "authorized"


@pytest.mark.slow
def test_leave_of_starter_spares_others(made_home: Path) -> None:
    first = Holder(made_home).wait_until_connected()
    second = Holder(made_home).wait_until_connected()
    server = read_server_process(made_home)
    assert first.end() == 0
    assert read_server_process(made_home) == server
    assert second.end(authorize("p1")) == 0
    assert not is_running(made_home)


def test_server_of_killed_command_is_stopped(made_home: Path) -> None:
    """The next command uses the server, and stops it."""
    Holder(made_home).wait_until_connected().kill()
    assert is_running(made_home)
    started = count_starts(made_home)
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    assert not is_running(made_home)
    assert count_starts(made_home) == started


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_start_interrupted_leaves_no_server(made_home: Path, number: int) -> None:
    command = Holder(made_home)
    wait_for(lambda: is_running(made_home))
    os.killpg(command.process.pid, number)
    assert command.end() == 128 + number
    assert not is_running(made_home)


# ---- A lost socket -------------------------------------------------------------------------------


@pytest.mark.slow
def test_lost_socket_is_explained_in_a_wait(made_home: Path) -> None:
    with run_server(made_home):
        (made_home / ".s.PGSQL.5432").unlink()
        waiting = Holder(made_home)
        assert waiting.read_line() == (
            f"payproc: the embedded database in {made_home} runs, but its socket {made_home}/.s.PGSQL.5432 does not "
            "answer; waiting for it to end: end the other commands that use it, or stop it with kill -INT and the "
            f"process id in the first line of {made_home}/data/postmaster.pid"
        )
        os.kill(read_server_process(made_home), signal.SIGINT)
        assert waiting.wait_until_connected().end() == 0


def test_stop_without_socket_succeeds(made_home: Path) -> None:
    """The command that started the server knows its process."""
    with run_server(made_home):
        (made_home / ".s.PGSQL.5432").unlink()
    assert not is_running(made_home)


# ---- Containers ----------------------------------------------------------------------------------


@in_namespaces
@pytest.mark.slow
def test_stop_in_container_spares_bystander(made_home: Path) -> None:
    """The server runs outside. Inside, a bystander has its number when the last command leaves."""
    Holder(made_home).wait_until_connected().kill()
    number = read_server_process(made_home)
    script = (
        f"echo {number - 1} > /proc/sys/kernel/ns_last_pid; env --default-signal=INT sleep 600 & "
        f'test $! = {number} || exit 77; "{COMMAND}" init; echo $?; kill $!; wait $!; echo $?'
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd="/",
        env=build_environment(made_home),
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == ["0", str(128 + signal.SIGTERM)], done
    assert (
        f"payproc: the embedded database in {made_home} is left running, because it runs in another container "
        "(PID namespace); the last command there stops it"
    ) in done.stderr.splitlines()
    assert is_running(made_home)
    succeed(made_home, "init")
    assert not is_running(made_home)


@in_namespaces
@pytest.mark.slow
def test_stop_of_container_server_succeeds(made_home: Path) -> None:
    """The number in postmaster.pid is the container's. Outside, the kernel gives the right one."""
    script = f'sleep 600 | "{COMMAND}" ingest - & read go; kill -9 $!; echo killed; sleep 600'
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=build_environment(made_home),
        cwd="/",
    ) as container:
        try:
            wait_for(lambda: read_pid_file(made_home)[7:8] == ["ready   "])
            assert container.stdin is not None
            container.stdin.write("go\n")
            container.stdin.flush()
            assert container.stdout is not None
            assert container.stdout.readline() == "killed\n"
            succeed(made_home, "init")
            assert not is_running(made_home)
        finally:
            container.kill()
