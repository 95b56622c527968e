"""Server: use of the embedded server, shared by all commands and stopped by the last."""

import fcntl
import math
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from payproc.embedded.binaries import POSTGRES_VERSION
from payproc.embedded.home import Home, close_at_end, explain_errors, try_lock, try_lock_for
from payproc.embedded.initdb import SUPERUSER
from payproc.embedded.log import describe_end
from payproc.embedded.postmaster import LEAVE_SECONDS, Postmaster
from payproc.embedded.sockets import find_listener
from payproc.notes import Note, drop_note
from payproc.signals import interrupt

CONTAINER_SECONDS = 60
"""Seconds that process 1 of a container waits at its end for other containers' commands."""

_CLIENT_OPTIONS = "-c log_min_messages=fatal -c client_min_messages=notice"
"""Settings of payproc's own connections. The log can do without their errors, because the command
reports them. While connecting, libpq prints messages itself, so a setting of the role must not
raise their number."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server: its name, and the parameters of a connection."""

    home: Path
    socket_folder: Path
    version: int
    owner: pwd.struct_passwd | None
    """The server's user, if root uses it."""

    @property
    def connect_args(self) -> dict[str, str]:
        """libpq parameters, complete, because libpq takes missing ones from the environment."""
        return {
            "host": str(self.socket_folder),
            "hostaddr": "",
            "port": "5432",
            "user": SUPERUSER,
            "password": "",
            "dbname": "postgres",
            "options": _CLIENT_OPTIONS,
            "sslmode": "disable",
            "gssencmode": "disable",
            "target_session_attrs": "any",
            # The owner of the home could link its socket to a server that only root may use.
            "requirepeer": "" if self.owner is None else self.owner.pw_name,
        }

    def explain_end(self) -> str | None:
        """Return the reason why nobody can connect any more, from the log.

        None while the server answers.
        """
        if find_listener(self.socket_folder) is not None:
            return None
        return describe_end(self.home / "log", self.owner)


@contextmanager
def run_server(path: Path, *, version: int = POSTGRES_VERSION, note: Note = drop_note) -> Iterator[EmbeddedServer]:
    """Use the embedded server of a home.

    Create and start it if need be. Stop it on leaving if nobody else uses it.

    `note` gets progress lines. Raises CannotFinish, with a remedy.
    """
    home = Home(path, note)
    # Signals are held, because an exception while a lock changes hands could leave it locked.
    with interrupt.held():
        with explain_errors(path):
            home.prepare()
            postmaster = Postmaster(home, version)
            users_lock = home.open("users.lock")
        with close_at_end(users_lock):
            with explain_errors(path):
                server = _join(postmaster, users_lock)
            try:
                with interrupt.raised():
                    yield server
            finally:
                with explain_errors(path):
                    _leave(postmaster, users_lock)


def _join(postmaster: Postmaster, users_lock: int) -> EmbeddedServer:
    home = postmaster.home
    with close_at_end(home.open("start.lock")) as start_lock:
        for _ in home.poll(math.inf, lambda: "waiting for another command that starts or stops the server"):
            if try_lock(start_lock):
                break
        fcntl.flock(users_lock, fcntl.LOCK_SH)
        try:
            socket_folder = postmaster.start()
        except BaseException:  # also after Ctrl-C during a start
            if postmaster.process is not None:
                _stop_if_last(postmaster, users_lock)
            raise
    return EmbeddedServer(home.path, socket_folder, postmaster.version, home.owner)


def _leave(postmaster: Postmaster, users_lock: int) -> None:
    # With process 1 the whole container ends, and the server of other containers' commands with it.
    seconds = CONTAINER_SECONDS if os.getpid() == 1 and postmaster.process is not None else 0
    note = f"waiting up to {seconds} s for commands in other containers, which use the server of this one"
    for _ in postmaster.home.poll(seconds, lambda: note):
        if _try_to_stop(postmaster, users_lock) or interrupt.signal is not None:
            return
    _try_to_stop(postmaster, users_lock)


def _try_to_stop(postmaster: Postmaster, users_lock: int) -> bool:
    """Stop the server if nobody else uses it. Return False if somebody does."""
    with close_at_end(postmaster.home.open("start.lock")) as start_lock:
        # A command that holds the lock for long is starting the server, and will stop it.
        return try_lock_for(start_lock, LEAVE_SECONDS) and _stop_if_last(postmaster, users_lock)


def _stop_if_last(postmaster: Postmaster, users_lock: int) -> bool:
    with interrupt.put_off():
        is_last = try_lock(users_lock)
        if is_last:
            postmaster.stop()
        return is_last
