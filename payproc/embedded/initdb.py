"""Initdb: creating a data directory, with payproc's settings."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from payproc.embedded import root
from payproc.embedded.home import HOME_VARIABLE, Home
from payproc.embedded.process import describe_kill, spawn
from payproc.errors import CannotFinish
from payproc.signals import interrupt

SUPERUSER = "payproc"

_SHELL_CHARACTERS = re.compile(r"[\"$`\\\n]")
"""Characters that initdb's own path must not hold, because it runs `postgres` through a shell, in
double quotes."""

_ERROR = re.compile("error|PANIC|FATAL|terminated by signal")

_BIG_MEMORY_BYTES = 4 << 30

_SETTINGS = """
# ---- Set by payproc when it created this server. Change them as you like and restart. ------------
listen_addresses = ''            # no network, ever; `payproc` sets unix_socket_directories on start
shared_buffers = {shared_buffers}
max_wal_size = {max_wal_size}            # fewer checkpoints while a dump is loaded
min_wal_size = {min_wal_size}
checkpoint_timeout = 15min
wal_level = minimal              # nothing replicates from here
max_wal_senders = 0
jit = off                        # every statement here is short
log_timezone = 'UTC'
# fsync, full_page_writes and synchronous_commit stay on, because reported events must be durable.
"""


def create_data(home: Home, binaries: Path, lock: int) -> None:
    """Create the data directory of a home. Only a complete one gets the name `data`."""
    if _SHELL_CHARACTERS.search(str(binaries)):
        raise CannotFinish(
            f"the embedded database cannot be created by {binaries / 'initdb'}, because of the characters in that "
            f"path; set {HOME_VARIABLE} to a plain one, or install payproc in one"
        )
    if home.owner is None:
        root.find_user(os.geteuid())  # initdb asks for its name
    if (home.data / "global" / "pg_control").exists():
        raise CannotFinish(f"the embedded database in {home.data} is damaged: it has lost its file PG_VERSION")
    home.note(f"creating the embedded database in {home.path}, because no other database is named", always=True)
    unfinished = home.path / "data-half-done"
    for stale in (unfinished, home.data):
        if stale.exists():
            shutil.rmtree(stale)
    _run_initdb(home, binaries, unfinished, lock)
    with (unfinished / "postgresql.conf").open("a") as config:
        config.write(_format_settings())
        config.flush()
        os.fsync(config.fileno())
    unfinished.rename(home.data)


def _run_initdb(home: Home, binaries: Path, target: Path, lock: int) -> None:
    command = [
        str(binaries / "initdb"),
        *("-D", str(target)),
        *("-U", SUPERUSER),
        *("--auth", "trust"),  # only the owner can reach the socket
        *("--encoding", "UTF8"),
        *("--locale", "C"),
        "--no-instructions",
    ]
    with spawn(home, command, subprocess.PIPE, lock) as process:
        try:
            with interrupt.raised():
                output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        shutil.rmtree(target, ignore_errors=True)
        lines = output.decode(errors="replace").strip().splitlines() or ["no output"]
        # The last line is about cleaning up. The cause comes from initdb, or from its server.
        error = describe_kill(process.returncode, "initdb") or next(filter(_ERROR.search, lines), lines[-1])
        raise CannotFinish(f"the embedded database could not be created in {home.path}: {error.strip()}")


def _format_settings() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory >= _BIG_MEMORY_BYTES:
        return _SETTINGS.format(shared_buffers="512MB", max_wal_size="2GB", min_wal_size="1GB")
    return _SETTINGS.format(shared_buffers="128MB", max_wal_size="1GB", min_wal_size="80MB")
