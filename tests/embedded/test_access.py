"""Access: the network and other users are kept out, in spite of the settings."""

import os
import re
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg2
import pytest

from payproc.embedded.server import run_server
from payproc.errors import CannotFinish
from tests.support.homes import (
    configure,
    connect,
    find_open_files,
    only_root,
    read_mode,
    read_server_process,
    try_as_nobody,
)


def test_settings_keep_the_promises(made_home: Path) -> None:
    """The server listens on no network address, despite its settings. Commits are durable."""
    configure(made_home, "listen_addresses = '*'")
    expected = {"listen_addresses": "", "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    with run_server(made_home) as server:
        connection = connect(server)
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [list(expected)])
            assert dict(cursor.fetchall()) == expected
        connection.close()


def find_server_processes(home: Path) -> list[int]:
    """Return the server and all its children."""
    server = read_server_process(home)
    found = [server]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = int(status.read_text().partition("PPid:")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
        if parent == server:
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process's sockets in /proc")
@pytest.mark.parametrize("settings", ["", pytest.param("listen_addresses = '*'", marks=pytest.mark.slow)])
def test_kernel_knows_no_network_socket(made_home: Path, settings: str) -> None:
    """No process of the server has one. The test's own socket shows that it would see another."""
    configure(made_home, settings)
    with run_server(made_home) as server, socket.create_server(("127.0.0.1", 0)) as own:
        connection = connect(server)
        of_the_server = [file for process in find_server_processes(made_home) for file in find_open_files(process)]
        own_socket = f"socket:[{os.fstat(own.fileno()).st_ino}]"
        assert own_socket in find_open_files(os.getpid())
        on_the_network = {
            f"socket:[{row.split()[9]}]"
            for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
            if Path(f"/proc/net/{table}").exists()
            for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        }
        assert own_socket in on_the_network
        assert on_the_network.isdisjoint(of_the_server)
        assert len({file for file in of_the_server if file.startswith("socket:")}) > 1, "the server's, the connection's"
        connection.close()


def test_home_and_socket_are_closed_to_others(made_home: Path) -> None:
    with run_server(made_home) as server:
        assert read_mode(made_home) == 0o700
        assert read_mode(made_home / "data") == 0o700
        assert read_mode(server.socket_folder / ".s.PGSQL.5432") == 0o700
        others = stat.S_IRWXG | stat.S_IRWXO
        assert [path.name for path in made_home.iterdir() if path.is_file() and read_mode(path) & others] == []


@only_root
@pytest.mark.parametrize("which", [pytest.param("made_home", marks=pytest.mark.slow), "made_long_home"])
def test_other_user_cannot_connect_or_look(which: str, request: pytest.FixtureRequest) -> None:
    """The folder keeps others out. If it were open, and the socket too, they could connect."""
    home: Path = request.getfixturevalue(which)
    with run_server(home) as server, socket.socket(socket.AF_UNIX) as client:
        address = str(server.socket_folder / ".s.PGSQL.5432")
        assert try_as_nobody(home.stat) == "done"  # the way there is open
        assert try_as_nobody(lambda: client.connect(address)) == "PermissionError"
        assert try_as_nobody(lambda: list(server.socket_folder.iterdir())) == "PermissionError"
        assert try_as_nobody(lambda: list(home.iterdir())) == "PermissionError"
        assert try_as_nobody((home / "log").read_bytes) == "PermissionError"
        assert try_as_nobody(lambda: (server.socket_folder / "new").write_text("")) == "PermissionError"
        server.socket_folder.chmod(0o755)
        assert try_as_nobody(lambda: client.connect(address)) == "PermissionError", "the socket is closed, too"
        Path(address).chmod(0o777)
        assert try_as_nobody(lambda: client.connect(address)) == "done"


@only_root
def test_other_user_cannot_use_the_home(made_home: Path) -> None:
    """payproc and a plain connection fail for another user, and change nothing."""

    def use_the_home() -> None:
        with run_server(made_home):
            pass

    def look() -> tuple[int, list[str]]:
        return read_mode(made_home), sorted(path.name for path in made_home.iterdir())

    with run_server(made_home) as server:
        before = look()
        for action in (use_the_home, lambda: connect(server).close()):
            connect(server).close()  # the owner can
            assert try_as_nobody(partial(raise_permission_error, action)) == "PermissionError"
        assert look() == before


def raise_permission_error(action: Callable[[], None]) -> None:
    """Act. Turn a lack of permission, in the words of payproc or libpq, into a PermissionError."""
    try:
        action()
    except (CannotFinish, psycopg2.OperationalError) as error:
        if re.search("Permission denied|it belongs to the uid", str(error)):
            raise PermissionError from error
        raise OSError from error
