"""Sockets: the folder of the server's Unix socket, and the process that listens on it."""

import os
import re
import shutil
import socket
import struct
import sys
from pathlib import Path

from payproc.embedded.home import HOME_VARIABLE, Home, close_at_end
from payproc.errors import CannotFinish

_SOCKET = ".s.PGSQL.5432"

_MAX_SOCKET_PATH_BYTES = 100
"""Unix socket paths, `/.s.PGSQL.5432` included, end at 107 bytes on Linux and 103 on macOS."""

_PLAIN_PATH = re.compile(r"[\w/.~+ -]+", re.ASCII)
"""Safe names of a socket's folder. libpq reads a comma as a list of hosts, and encodes other
characters itself."""

_PRIVATE_PREFIX = "/tmp/payproc-socket-"  # noqa: S108 - a random name follows
_PRIVATE_FOLDER = re.compile(f"{_PRIVATE_PREFIX}[0-9a-f]+")


def choose_socket_folder(home: Home) -> Path:
    """Return the home if its path is fit for a socket, else a new private folder for one run."""
    remove_socket_folder(home)
    if len(f"{home.path}/{_SOCKET}") <= _MAX_SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(str(home.path)):
        return home.path
    folder = Path(_PRIVATE_PREFIX + os.urandom(8).hex())
    # Record the folder before it exists, so that a crash leaves no stray one.
    with close_at_end(home.open("socket-folder", os.O_TRUNC)) as record:
        os.write(record, os.fsencode(folder))
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:  # such as a read-only root file system
        raise CannotFinish(
            f"the embedded database needs a folder for its socket, {folder}: {error.strerror}; set {HOME_VARIABLE} to "
            f"a path of at most {_MAX_SOCKET_PATH_BYTES - len(_SOCKET) - 1} ASCII characters, then it needs none"
        ) from error
    return folder


def remove_socket_folder(home: Home) -> None:
    """Remove the private folder of an earlier run, if there is one."""
    record = home.path / "socket-folder"
    if record.exists():
        folder = os.fsdecode(record.read_bytes())
        if is_private_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)
        record.unlink()


def is_private_folder(folder: str) -> bool:
    """Return whether a folder has the name of a private socket folder."""
    return bool(_PRIVATE_FOLDER.fullmatch(folder))


def find_listener(socket_folder: Path) -> int | None:
    """Return the process that listens on the socket: 0 if it is invisible, None if there is none.

    The kernel records it when the process begins to listen, and returns its number in this PID
    namespace.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(socket_folder / _SOCKET))
            if sys.platform == "darwin":
                return client.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
            pid: int = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return None
    return pid
