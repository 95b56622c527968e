"""Programs of the user on the embedded database: its server, its user, and its end."""

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.support.command import COMMAND
from tests.support.homes import (
    NOBODY,
    build_environment,
    copy_home,
    count_starts,
    is_running,
    only_root,
    run_command,
    succeed,
)
from tests.support.postgres import wait_for

QUERY = "SELECT current_user, current_setting('transaction_read_only'), inet_server_addr()"


def test_program_runs_as_the_caller(made_home: Path) -> None:
    """The server's user could replace its copies of the programs, so root must not run them."""
    script = f'id -u; command -v psql; echo "$PGREQUIREPEER"; psql -Atc "{QUERY}"'
    done = run_command(made_home, "exec", "-q", "sh", "-c", script, PGHOST="elsewhere", PGSERVICE="elsewhere")
    assert (done.returncode, done.stderr) == (0, "")
    user, psql, peer, answer = done.stdout.splitlines()
    assert user == str(os.geteuid())
    assert not Path(psql).is_relative_to(made_home)
    assert Path(psql).stat().st_uid in (0, os.geteuid())
    assert peer == (pwd.getpwuid(made_home.stat().st_uid).pw_name if os.geteuid() == 0 else "")
    assert answer == "payproc|on|"
    assert not is_running(made_home)


@only_root
@pytest.mark.slow
def test_server_of_another_user_is_refused(made_home: Path) -> None:
    """The owner of the home could link its socket to a server that only root may use."""
    script = 'PGREQUIREPEER=nobody psql -c "SELECT 1"'
    done = run_command(made_home, "exec", "-q", "sh", "-c", script)
    assert done.returncode == 2
    assert 'requirepeer specifies "nobody", but actual peer user name is "payproc"' in done.stderr


@pytest.mark.slow
def test_server_stays_while_the_program_runs(made_home: Path) -> None:
    """Other commands join it, also those of the program, and the last one stops it."""
    script = 'payproc status -q; echo ready; cat; psql -Atc "SELECT 42"'
    environment = build_environment(made_home, PATH=f"{COMMAND.parent}:{os.environ['PATH']}")
    with subprocess.Popen(
        [COMMAND, "exec", "-q", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        starts = count_starts(made_home)
        succeed(made_home, "status")
        assert is_running(made_home)
        process.stdin.close()
        assert process.stdout.read() == "42\n"
    assert process.returncode == 0
    assert (is_running(made_home), count_starts(made_home)) == (False, starts)


@pytest.mark.slow
def test_background_program_loses_the_server(made_home: Path) -> None:
    """The server is stopped with the last command, whatever the program has left behind."""
    script = 'psql -c "SELECT pg_sleep(60)" >lost 2>&1 & until psql -Atc "$1" | grep -q 1; do :; done'
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    folder = made_home.parent
    command = [str(COMMAND), "exec", "-q", "sh", "-c", script, "sh", sleeping]
    subprocess.run(command, cwd=folder, env=build_environment(made_home), check=True, timeout=60)
    assert not is_running(made_home)
    wait_for(lambda: "terminating connection due to administrator command" in (folder / "lost").read_text())


# ---- Copies of a home ----------------------------------------------------------------------------


@pytest.mark.slow
def test_cold_copy_is_refused_while_the_server_runs(made_home: Path) -> None:
    script = f'flock -n "$PAYPROC_HOME/server.lock" cp -a "$PAYPROC_HOME" {made_home.parent}/copy'
    done = run_command(made_home, "exec", "-q", "sh", "-c", script)
    assert (done.returncode, (made_home.parent / "copy").exists()) == (1, False)
    subprocess.run(["sh", "-c", script], env=build_environment(made_home), check=True)
    assert succeed(made_home.parent / "copy", "verify")


@only_root
@pytest.mark.slow
def test_copy_of_a_home_serves_another_user(made_home: Path, users_folder: Path) -> None:
    copy = copy_home(made_home, users_folder / "copy")
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", copy], check=True)
    done = run_command(copy, "exec", "-q", "psql", "-Atc", QUERY)
    assert (done.stdout, done.stderr) == ("payproc|on|\n", "")
    assert {path.lstat().st_uid for path in (copy, *copy.rglob("*"))} == {NOBODY}
