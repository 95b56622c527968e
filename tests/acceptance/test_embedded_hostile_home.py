"""The embedded PostgreSQL where others get in its way: a home's owner against root, containers, limits, damaged files.

The installed command runs as a real process, the attackers as real processes of another user.
"""

import grp
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from payproc.embedded import root
from payproc.embedded.binaries import can_run, find_wheel
from payproc.embedded.home import Home
from payproc.embedded.server import running_server
from payproc.errors import CannotFinish
from payproc.notes import drop_note
from tests.support.homes import (
    IS_ROOT,
    NOBODY,
    PATIENCE_SECONDS,
    PAYPROC,
    Holder,
    authorize,
    connect,
    copy_home,
    environment,
    is_running,
    mode,
    only_root,
    payproc,
    pid_file,
    refuse,
    server_process,
    succeed,
    temporary_folder,
    until,
)

UNKNOWN_USER = 54321
LOG_LIMIT_BYTES = 20_000_000

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and PID namespaces are Linux's")


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A home with a stopped database in it, to be copied."""
    with temporary_folder() as folder:
        succeed(folder / "home", "init")
        yield folder / "home"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for homes that other users may pass through."""
    with temporary_folder() as path:
        path.chmod(0o755)
        yield path


@pytest.fixture
def home(folder: Path) -> Path:
    """A home that does not exist yet."""
    return folder / "home"


@pytest.fixture
def made_home(folder: Path, template: Path) -> Path:
    """A home with a stopped database in it."""
    copy_home(template, folder / "home")
    folder.chmod(0o755)
    return folder / "home"


@pytest.fixture
def users_folder(folder: Path) -> Path:
    """A folder of the user nobody, who may swap what is inside at any moment."""
    path = folder / "users"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


@pytest.fixture
def secret_folder(folder: Path) -> Path:
    """An empty folder that root keeps to itself."""
    path = folder / "secret"
    path.mkdir(mode=0o700)
    return path


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@contextmanager
def attacker(act: Callable[[], object]) -> Iterator[None]:
    """Have another process of the user nobody do something again and again."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            while True:
                with suppress(OSError):
                    act()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# ---- Root in the home of another user ------------------------------------------------------------


@only_root
def test_a_link_planted_during_creation_gains_nothing(home: Path, folder: Path) -> None:
    """The settings are appended to postgresql.conf after initdb, whose last step leaves time for a link."""
    secret = folder / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    half_done = home / "data-half-done"

    def plant() -> None:
        if (half_done / "base" / "5" / "PG_VERSION").exists():  # the last database that initdb makes
            (half_done / "link").symlink_to(secret)
            (half_done / "link").rename(half_done / "postgresql.conf")

    with attacker(plant):
        done = payproc(home, "init")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert secret.read_text() == "root's own"
    assert owner_and_mode(secret) == (0, 0, 0o600)


@only_root
def test_a_folder_swapped_for_the_home_is_not_given_away(users_folder: Path, secret_folder: Path) -> None:
    home, aside = users_folder / "home", users_folder / "aside"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    before = owner_and_mode(secret_folder)

    def swap() -> None:
        home.rename(aside)
        home.symlink_to(secret_folder)
        home.unlink()
        aside.rename(home)

    prepared = 0
    with attacker(swap):
        for _ in range(2_000):
            with suppress(CannotFinish, OSError):
                Home(home, drop_note).prepare()
                prepared += 1
    assert prepared > 0
    assert owner_and_mode(secret_folder) == before
    assert list(secret_folder.iterdir()) == []


@only_root
@pytest.mark.parametrize("name", ["secret", "secret/new", "secret/new/home"])
def test_root_gives_away_no_folder_behind_a_link_of_another_user(
    users_folder: Path, secret_folder: Path, name: str
) -> None:
    link = users_folder / "secret"
    link.symlink_to(secret_folder)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    before = owner_and_mode(secret_folder)
    said = refuse(users_folder / name)
    assert said.startswith(f"the embedded database cannot use {secret_folder if name == 'secret' else link}")
    assert "belongs to root" in said or "Permission denied" in said
    assert owner_and_mode(secret_folder) == before
    assert list(secret_folder.iterdir()) == []


@only_root
def test_root_opens_no_folder_of_its_own_below_another_users(users_folder: Path) -> None:
    closed = users_folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "home").mkdir()
    os.chown(closed / "home", NOBODY, NOBODY)
    assert "Operation not permitted" in refuse(closed / "home")
    assert owner_and_mode(closed) == (0, 0, 0o700)


@only_root
def test_a_new_home_in_the_folder_of_an_unknown_user_is_the_servers(users_folder: Path) -> None:
    """As in a container, where a mounted folder belongs to a number that no user has."""
    os.chown(users_folder, UNKNOWN_USER, UNKNOWN_USER)
    home = users_folder / "new" / "home"
    succeed(home, "init")
    succeed(home, "init")
    assert home.stat().st_uid == pwd.getpwnam("payproc").pw_uid
    assert [path for path in home.rglob("*") if path.lstat().st_uid != home.stat().st_uid] == []
    assert (home.parent.stat().st_uid, list(home.parent.iterdir())) == (UNKNOWN_USER, [home])


@only_root
def test_a_home_restored_by_root_is_given_to_the_servers_user(made_home: Path) -> None:
    subprocess.run(["chown", "-R", "root:root", made_home], check=True)
    succeed(made_home, "init")
    assert [path for path in made_home.rglob("*") if path.lstat().st_uid == 0] == []


@only_root
def test_a_planted_socket_leads_root_to_no_server_of_its_own(made_home: Path, secret_folder: Path) -> None:
    address = secret_folder / ".s.PGSQL.5432"
    with socket.socket(socket.AF_UNIX) as roots_server, open_lock(made_home):
        roots_server.bind(str(address))
        roots_server.listen()
        roots_server.setblocking(False)
        (made_home / ".s.PGSQL.5432").symlink_to(address)
        for folder in (made_home, secret_folder):
            name_server(made_home, folder, "ready")
            command = Holder(made_home)
            assert "does not answer; waiting for it to end: end the other commands" in command.next_line()
            command.kill()
        with pytest.raises(BlockingIOError):
            roots_server.accept()


@only_root
def test_root_asks_for_a_server_of_the_owner(made_home: Path) -> None:
    with running_server(made_home) as server:
        name = pwd.getpwuid(made_home.stat().st_uid).pw_name
        assert server.connect_args["requirepeer"] == name
        connect(server).close()


@only_root
def test_a_link_for_the_log_shows_root_nothing(made_home: Path, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("2026-11-25 UTC [1] FATAL:  root's own words\n")
    secret.chmod(0o600)
    with running_server(made_home) as server:
        pass
    for plant in (Path.symlink_to, Path.hardlink_to):
        (made_home / "log").unlink()
        plant(made_home / "log", secret)
        assert server.why_gone() == f"its server has ended (all of it in {made_home}/log)"
    (made_home / "log").unlink()


@only_root
def test_rights_are_roots_again_after_the_home_was_used(made_home: Path) -> None:
    before = os.geteuid(), os.getegid(), os.getgroups()
    with running_server(made_home):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    with pytest.raises(OSError, match="planted"), root.act_as(NOBODY, grp.getgrgid(NOBODY).gr_gid):
        raise OSError("planted")
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before


@contextmanager
def open_lock(home: Path) -> Iterator[None]:
    """Hold `server.lock`, as a running server does."""
    holder = subprocess.Popen(["flock", home / "server.lock", "sleep", "600"], start_new_session=True)
    try:
        until(lambda: is_running(home))
        yield
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def name_server(home: Path, socket_folder: Path, status: str) -> None:
    """Write a postmaster.pid."""
    lines = [str(os.getpid()), f"{home}/data", "1700000000", "5432", str(socket_folder), "", "1 2", f"{status:8}", ""]
    file = home / "data" / "postmaster.pid"
    file.write_text("\n".join(lines))
    os.chown(file, (home / "data").stat().st_uid, (home / "data").stat().st_gid)


# ---- What comes from the environment -------------------------------------------------------------


def test_variables_of_libpq_do_not_change_how_payproc_connects(
    made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server(made_home) as server:
        for name, value in {
            "PGHOST": "localhost",
            "PGHOSTADDR": "127.0.0.1",
            "PGPORT": "1",
            "PGUSER": "somebody",
            "PGDATABASE": "nowhere",
            "PGOPTIONS": "-c nonsense=1",
            "PGSSLMODE": "require",
            "PGGSSENCMODE": "require",
            "PGREQUIREPEER": "somebody",
            "PGTARGETSESSIONATTRS": "standby",
        }.items():
            monkeypatch.setenv(name, value)
        connect(server).close()


# ---- Containers ----------------------------------------------------------------------------------


def can_make_namespace() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return IS_ROOT and shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


in_namespaces = pytest.mark.skipif(not can_make_namespace(), reason="it takes root and PID namespaces")


@in_namespaces
def test_a_process_of_another_container_with_the_servers_number_lives_on(made_home: Path) -> None:
    """The server runs outside. Inside, a bystander has its number, and the command inside is the last to leave."""
    Holder(made_home).wait_until_connected().kill()
    number = server_process(made_home)
    script = (
        f"echo {number - 1} > /proc/sys/kernel/ns_last_pid; env --default-signal=INT sleep 600 & "
        f'test $! = {number} || exit 77; "{PAYPROC}" init; echo $?; kill $!; wait $!; echo $?'
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(made_home),
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
def test_a_server_in_a_container_is_stopped_from_outside(made_home: Path) -> None:
    """Its number in postmaster.pid is one of the container. Outside, the kernel gives the right one."""
    script = f'sleep 600 | "{PAYPROC}" ingest - & read go; kill -9 $!; echo killed; sleep 600'
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(made_home),
        cwd="/",
    ) as container:
        try:
            until(lambda: pid_file(made_home)[7:8] == ["ready   "])
            assert container.stdin is not None
            container.stdin.write("go\n")
            container.stdin.flush()
            assert container.stdout is not None
            assert container.stdout.readline() == "killed\n"
            succeed(made_home, "init")
            assert not is_running(made_home)
        finally:
            container.kill()


# ---- Limits, the log, and waiting ----------------------------------------------------------------


def under(limits: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a shell with limits."""
    return subprocess.run(
        ["bash", "-c", f'{limits}; exec "$0" init', PAYPROC],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(home),
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_a_soft_limit_on_files_does_not_limit_the_servers(home: Path) -> None:
    done = under("ulimit -S -f 2000", home)
    assert done.returncode == 0, done.stderr


@only_linux
def test_the_server_has_the_highest_limits_allowed(made_home: Path) -> None:
    before = {number: resource.getrlimit(number) for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)}
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[resource.RLIMIT_NOFILE][1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, before[resource.RLIMIT_FSIZE][1]))
        with running_server(made_home):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 200
            limits = Path(f"/proc/{server_process(made_home)}/limits").read_text().splitlines()[1:]
    finally:
        for number, limit in before.items():
            resource.setrlimit(number, limit)
    columns = [re.split(r"  +", line) for line in limits]
    assert [name for name, soft, hard, *_ in columns if soft != hard and name != "Max core file size"] == []


def test_a_hard_limit_that_would_harm_others_is_refused(made_home: Path) -> None:
    done = under("ulimit -f 100000", made_home)
    assert done.returncode == 1
    assert done.stderr == (
        "payproc: the embedded database writes files of up to 1,073,741,824 bytes, but this session may write only "
        "102,400,000 (ulimit -f); allow larger files, or name a server with --database-url\n"
    )
    holder = Holder(made_home).wait_until_connected()
    assert under("ulimit -f 100000", made_home).returncode == 0, "the server of another command has no such limit"
    assert holder.end() == 0


def log_bytes(home: Path) -> int:
    return sum((home / name).stat().st_size for name in ("log", "log.old") if (home / name).exists())


def test_a_long_log_is_started_anew_and_its_end_kept(made_home: Path) -> None:
    line = "2026-11-25 LOG:  one of many\n"
    with (made_home / "log").open("a") as log:
        log.write(line * 1_000_000 + "2026-11-25 LOG:  the last\n")
    succeed(made_home, "init")
    assert log_bytes(made_home) < LOG_LIMIT_BYTES
    assert (made_home / "log.old").read_text().endswith("one of many\n2026-11-25 LOG:  the last\n")
    assert "starting PostgreSQL" in (made_home / "log").read_text()


def test_the_log_of_a_running_server_is_shortened_too(made_home: Path) -> None:
    holder = Holder(made_home).wait_until_connected()
    with (made_home / "log").open("a") as log:
        log.write("2026-11-25 LOG:  one of many\n" * 1_000_000)
    succeed(made_home, "init")
    assert log_bytes(made_home) < LOG_LIMIT_BYTES
    assert holder.end() == 0
    assert "database system is shut down" in (made_home / "log").read_text(errors="replace")[-1000:]


@pytest.mark.parametrize("options", ["payproc's own", "-c application_name=psql"])
def test_a_statement_that_fails_leaves_little_in_the_log(made_home: Path, options: str) -> None:
    with running_server(made_home) as server:
        before = log_bytes(made_home)
        is_own = options == "payproc's own"
        given: dict[str, Any] = server.connect_args | ({} if is_own else {"options": options})
        connection = psycopg2.connect(**given)
        with pytest.raises(psycopg2.errors.DivisionByZero), connection.cursor() as cursor:
            cursor.execute(f"SELECT '{'x' * 5_000_000}', 1 / 0")
        connection.close()
        assert log_bytes(made_home) - before < (1 if is_own else 1_000)


def test_commands_that_come_and_go_leave_little_in_the_log(made_home: Path) -> None:
    before = log_bytes(made_home)
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    assert log_bytes(made_home) - before < 1_000


def test_a_lost_socket_is_reported_while_a_command_waits(made_home: Path) -> None:
    with running_server(made_home):
        (made_home / ".s.PGSQL.5432").unlink()
        waiting = Holder(made_home)
        assert waiting.next_line() == (
            f"payproc: the embedded database in {made_home} runs, but its socket {made_home}/.s.PGSQL.5432 does not "
            "answer; waiting for it to end: end the other commands that use it, or stop it with kill -INT and the "
            f"process id in the first line of {made_home}/data/postmaster.pid"
        )
        os.kill(server_process(made_home), signal.SIGINT)
        assert waiting.wait_until_connected().end() == 0


def test_the_command_that_started_a_server_stops_it_without_a_socket(made_home: Path) -> None:
    with running_server(made_home):
        (made_home / ".s.PGSQL.5432").unlink()
    assert not is_running(made_home)


# ---- Damaged files, and programs that cannot run -------------------------------------------------


@pytest.mark.parametrize(
    ("content", "is_said"),
    [
        (b"", "is empty"),
        (b"\n", "holds '\\n'"),
        (b"eighteen\n", "holds 'eighteen\\n'"),
        (b"\xff\xfe", "holds '\\ufffd\\ufffd'"),
        (b"1_8\n", "holds '1_8\\n'"),
    ],
)
def test_a_damaged_version_file_is_refused(home: Path, content: bytes, is_said: str) -> None:
    (home / "data").mkdir(parents=True)
    (home / "start.lock").touch()
    (home / "data" / "PG_VERSION").write_bytes(content)
    assert refuse(home) == (
        f"the embedded database in {home}/data is damaged: its file PG_VERSION {is_said}, expected a version such as 18"
    )


@only_linux
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGXCPU, "signal 24 (processor time limit, ulimit -t)"),
        (signal.SIGKILL, "signal 9 (a limit or an administrator)"),
    ],
)
def test_a_creation_killed_by_a_signal_says_so(home: Path, number: int, reason: str) -> None:
    command = Holder(home)
    until((home / "data-half-done" / "PG_VERSION").exists)
    os.kill(process_of(str(home / "data-half-done"), "initdb"), number)
    assert command.last_line() == (
        f"payproc: the embedded database could not be created in {home}: initdb was killed by {reason}"
    )
    assert command.end() == 1
    until(lambda: not is_running(home))


def process_of(argument: str, name: str) -> int:
    """Return the process of a program with this argument."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if words[0].endswith(name.encode()) and argument.encode() in words:
                return int(file.parent.name)
    raise AssertionError(f"no process of {name}")


@only_linux
def test_a_server_killed_while_it_starts_says_so(made_home: Path) -> None:
    with (made_home / "data" / "postgresql.conf").open("a") as settings:
        settings.write("restore_command = 'sleep 600'\nrecovery_target = 'immediate'\n")
    (made_home / "data" / "recovery.signal").touch()
    os.chown(made_home / "data" / "recovery.signal", *owner_and_mode(made_home)[:2])
    command = Holder(made_home)
    until(lambda: len(pid_file(made_home)) > 0)
    os.kill(server_process(made_home), signal.SIGXCPU)
    assert command.last_line() == (
        f"payproc: the embedded database in {made_home} did not start: "
        "it was killed by signal 24 (processor time limit, ulimit -t)"
    )
    assert command.end() == 1
    until(lambda: not is_running(made_home))


def test_too_many_open_files_do_not_look_like_closed_binaries() -> None:
    program = find_wheel() / "pginstall18" / "bin" / "postgres"
    user = pwd.getpwuid(os.geteuid())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            can_run(program, user)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@only_root
def test_a_copy_of_the_binaries_that_fails_leaves_nothing(home: Path, folder: Path) -> None:
    closed = folder / "site-packages"
    closed.mkdir(mode=0o700)
    wheel = find_wheel()
    for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if source.exists():
            subprocess.run(["cp", "-a", source, closed], check=True)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -S -f 1000; exec "$0" init', PAYPROC],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(home, PYTHONPATH=str(closed)),
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "File too large; allow this session larger files (ulimit -f), or name a server with --database-url"
    )
    assert list(home.glob("binaries-*")) == []
    done = subprocess.run(
        [PAYPROC, "init"],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(home, PYTHONPATH=str(closed)),
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (copy,) = home.glob("binaries-*")
    assert {path.lstat().st_uid for path in (copy, *copy.rglob("*"))} == {home.stat().st_uid}
    assert mode(closed) == 0o700


@only_root
def test_a_program_that_fails_otherwise_is_not_copied(tmp_path: Path) -> None:
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho 'libfoo.so: cannot open shared object file' >&2; exit 127\n")
    program.chmod(0o755)
    with pytest.raises(CannotFinish, match=r"cannot run: libfoo.so: cannot open shared object file; reinstall payproc"):
        can_run(program, pwd.getpwuid(os.geteuid()))
