"""Initdb: creating a data directory with payproc's settings, or as the copy of a template."""

import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

from payproc.embedded.home import HOME_VARIABLE, Home
from payproc.embedded.process import describe_kill, spawn
from payproc.errors import CannotFinish
from payproc.signals import interrupt

SUPERUSER = "payproc"

TEMPLATE_VARIABLE = "PAYPROC_TEMPLATE"
"""Environment variable that names a home to copy, because initdb refuses a uid without a name."""

_TEMPLATE_ADVICE = "expected a home made by `payproc init`, readable by all (chmod -R a+rX)"

_SHELL_CHARACTERS = re.compile(r"[\"$`\\\n]")
"""Characters that initdb's own path must not hold, because it runs `postgres` through a shell, in
double quotes."""

_ERROR = re.compile("error|PANIC|FATAL|terminated by signal")

_BIG_MEMORY_BYTES = 4 << 30

_INITDB_OPTIONS = (
    *("-U", SUPERUSER),
    *("--auth", "trust"),  # only the owner can reach the socket
    *("--encoding", "UTF8"),
    *("--locale", "C"),
    "--no-instructions",
)

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


def create_data(home: Home, binaries: Path, version: int, lock: int) -> None:
    """Create the data directory of a home. Only a complete one gets the name `data`."""
    if _SHELL_CHARACTERS.search(str(binaries)):
        raise CannotFinish(
            f"the embedded database cannot be created by {binaries / 'initdb'}, because of the characters in that "
            f"path; set {HOME_VARIABLE} to a plain one, or install payproc in one"
        )
    template = _find_template(version)
    if home.owner is None and template is None:
        _refuse_unnamed_user(home)
    if (home.data / "global" / "pg_control").exists():
        raise CannotFinish(f"the embedded database in {home.data} is damaged: it has lost its file PG_VERSION")
    home.note(f"creating the embedded database in {home.path}, because no other database is named", always=True)
    unfinished = home.path / "data-half-done"
    for stale in (unfinished, home.data):
        if stale.exists():
            shutil.rmtree(stale)
    if template is not None:
        _copy_template(template, unfinished)
        _run_initdb(home, binaries, unfinished, lock, "--sync-only")
    else:
        _run_initdb(home, binaries, unfinished, lock, *_INITDB_OPTIONS)
        with (unfinished / "postgresql.conf").open("a") as config:
            config.write(_format_settings())
            config.flush()
            os.fsync(config.fileno())
    unfinished.rename(home.data)


def _refuse_unnamed_user(home: Home) -> None:
    """Raise CannotFinish if this process's user has no name, because initdb asks for it."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise CannotFinish(
            f"the embedded database cannot be created in {home.path}: the uid {os.geteuid()} has no line in "
            f"/etc/passwd, which initdb needs; add one, set {TEMPLATE_VARIABLE} to a home made by `payproc init`, or "
            "name a server with --database-url"
        ) from error


def _find_template(version: int) -> Path | None:
    """Return the data directory of the template, None if no variable names one."""
    if not (named := os.environ.get(TEMPLATE_VARIABLE)):
        return None
    data = Path(named).absolute() / "data"
    try:
        found = (data / "PG_VERSION").read_text().strip()
        is_in_use = (data / "postmaster.pid").exists()
    except OSError as error:
        raise CannotFinish(f"{TEMPLATE_VARIABLE}: {error.filename}: {error.strerror}, {_TEMPLATE_ADVICE}") from error
    if is_in_use:
        raise CannotFinish(f"{TEMPLATE_VARIABLE}: {data}: its server runs or was killed, {_TEMPLATE_ADVICE}")
    if found != str(version):
        raise CannotFinish(f"{TEMPLATE_VARIABLE}: {data} has PostgreSQL {found}, expected {version}; make it anew")
    return data


def _copy_template(template: Path, target: Path) -> None:
    """Copy a data directory. Only this user may read the copy, whatever the template allows."""
    try:
        for source in (template, *sorted(template.rglob("*"))):
            interrupt.check()
            copy = target / source.relative_to(template)
            if source.is_dir():
                copy.mkdir(mode=0o700)
            else:
                shutil.copyfile(source, copy)
                copy.chmod(0o600)
    except BaseException as error:  # such as a full disk, or Ctrl-C
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, PermissionError):
            message = f"{TEMPLATE_VARIABLE}: {error.filename}: {error.strerror}, {_TEMPLATE_ADVICE}"
            raise CannotFinish(message) from error
        if isinstance(error, OSError) and error.filename2:
            error.filename = error.filename2  # the copy, because the full disk is its own
        raise


def _run_initdb(home: Home, binaries: Path, target: Path, lock: int, *options: str) -> None:
    command = [str(binaries / "initdb"), "-D", str(target), *options]
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
