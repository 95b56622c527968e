"""Process: starting the server's programs with a user and limits, signals, and exit codes."""

import os
import pwd
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from payproc.embedded.home import Home, close_at_end
from payproc.errors import CannotFinish

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""The whole environment of the server and of initdb."""

_MAX_FILE_BYTES = 1 << 30
"""The size at which PostgreSQL starts another file for a table."""

_LIMIT_SIGNALS: dict[int, str] = {
    signal.SIGXCPU: "processor time limit, ulimit -t",
    signal.SIGXFSZ: "file size limit, ulimit -f",
    signal.SIGKILL: "a limit or an administrator",
}


def spawn(home: Home, command: list[str], output: int, lock: int) -> "subprocess.Popen[bytes]":
    """Start a program as the home's owner.

    It and its children hold the lock for as long as one of them lives.
    """
    with home.act_as_root(), _raise_limits():
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # root would enter it
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C in the terminal is for the command, not for the server
            pass_fds=[lock],
            umask=0o077,
            **build_user_arguments(home.owner),
        )


def build_user_arguments(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return arguments for subprocess that make root run a process as another user."""
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@contextmanager
def hold_process(pid: int) -> Iterator[Callable[[signal.Signals], None]]:
    """Yield the function that signals this process.

    Where processes have handles, as on Linux, it never signals a later one with the same number.
    """
    handle = None
    with suppress(AttributeError, OSError):  # macOS has no handles, and a dead process has none
        handle = os.pidfd_open(pid)
    if handle is None:
        yield partial(os.kill, pid)
    else:
        with close_at_end(handle):
            yield partial(signal.pidfd_send_signal, handle)


def describe_kill(code: int, name: str = "it") -> str | None:
    """Return the signal behind an exit code, None if the process ended by itself."""
    if code >= 0:
        return None
    cause = _LIMIT_SIGNALS.get(-code, signal.strsignal(-code) or "unknown")
    return f"{name} was killed by signal {-code} ({cause})"


@contextmanager
def _raise_limits() -> Iterator[None]:
    """Raise the limits to the allowed maximum for a process started meanwhile.

    Other commands use the server as well, so the limits of this one must not apply.
    """
    names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_CORE"]
    before = {number: resource.getrlimit(number) for number in (getattr(resource, name) for name in names)}
    try:
        for number, (_, hard) in before.items():
            with suppress(OSError, ValueError):  # macOS takes no unlimited number of files
                resource.setrlimit(number, (hard, hard))
        yield
    finally:
        for number, limit in before.items():
            with suppress(OSError, ValueError):
                resource.setrlimit(number, limit)


def refuse_small_files() -> None:
    """Raise CannotFinish if this session's file size limit would harm the server's other users."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard != resource.RLIM_INFINITY and hard < _MAX_FILE_BYTES:
        raise CannotFinish(
            f"the embedded database writes files of up to {_MAX_FILE_BYTES:,} bytes, but this session may write "
            f"only {hard:,} (ulimit -f); allow larger files, or name a server with --database-url"
        )
