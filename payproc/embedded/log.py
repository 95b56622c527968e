"""Log: the server's log file, kept short and searched for the reason of an end."""

import errno
import os
import pwd
import re
from contextlib import suppress
from pathlib import Path

from payproc.embedded.home import Home, close_at_end

MAX_LOG_BYTES = 8 << 20
"""Size above which a command starts the log anew. As much of its end is kept as log.old."""

LOG_SETTINGS = ("log_min_error_statement=panic", "log_checkpoints=off")
"""Server settings that keep the log small. The statement behind an error may take 5 MB."""

_LAST_WORDS = re.compile(r" (PANIC|FATAL):  (?!the database system is|terminating |database |role |sorry, )")
"""Lines about the server's own end. They exclude refusals of a client, which came too early, was
terminated or had no right to connect."""


def shorten_log(home: Home) -> None:
    """Truncate a long log and keep its end.

    A running server goes on writing, because its descriptor appends.
    """
    with close_at_end(home.open("log")) as log:
        size = os.fstat(log).st_size
        if size <= MAX_LOG_BYTES:
            return
        # The disk may be full.
        with suppress(OSError), os.fdopen(home.open("log.old", os.O_TRUNC), "wb") as old:
            old.write(os.pread(log, MAX_LOG_BYTES, size - MAX_LOG_BYTES))
        os.ftruncate(log, 0)


def find_error(log: Path, start: int) -> str:
    """Return the first error after this offset, else the last line."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    errors = [line for line in lines if "FATAL" in line or "ERROR" in line] or lines[-1:] or ["no output"]
    return f"{errors[0].strip()} (see {log})"


def describe_end(log: Path, owner: pwd.struct_passwd | None) -> str:
    """Return the end of a server that is gone, with the last words since its start."""
    try:
        lines = _read_end(log, owner).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    starts = [number for number, line in enumerate(lines) if "LOG:  starting PostgreSQL" in line]
    last_words = [line for line in lines[starts[-1] if starts else 0 :] if _LAST_WORDS.search(line)]
    return f"its server has ended{f': {last_words[-1].strip()}' if last_words else ''} (see {log})"


def _read_end(log: Path, owner: pwd.struct_passwd | None) -> bytes:
    """Return the end of the log. As root, accept only a file of the owner.

    Root stays root here, because other threads run at this moment and rights count for all of them.
    """
    with os.fdopen(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if owner is not None and found.st_uid != owner.pw_uid:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(log))
        file.seek(max(0, found.st_size - MAX_LOG_BYTES))
        return file.read()
