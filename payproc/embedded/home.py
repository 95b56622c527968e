"""Home: the folder of an embedded server, its files and their locks.

Belongs here: the place of the home, the rights to use it, and the advice if it cannot be used.
Everything inside is done with its owner's rights. root.py reaches the home of another user.
"""

import errno
import fcntl
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from payproc.embedded import root
from payproc.errors import CannotFinish
from payproc.notes import Note
from payproc.signals import interrupt

HOME_VARIABLE = "PAYPROC_HOME"

ROOT_HOME = Path("/var/lib/payproc")

_QUIET_SECONDS = 3
"""Seconds to wait silently before the reason is printed."""

_POLL_SECONDS = 0.02

_ADVICE_BY_ERRNO = {
    errno.EMFILE: "allow this session more open files (ulimit -n)",
    errno.ENFILE: "close some programs",
    errno.EAGAIN: "allow this session more processes (ulimit -u)",
    errno.ENOMEM: "allow this session more memory (ulimit -v)",
    errno.EFBIG: "allow this session larger files (ulimit -f)",
    errno.ENOSPC: f"free some space, set {HOME_VARIABLE} to a folder on another disk",
}
"""Remedies for errors that have nothing to do with permissions."""


def choose_home() -> Path:
    """Return PAYPROC_HOME, else a folder in the user's data directory, for root below /var/lib."""
    try:
        if named := os.environ.get(HOME_VARIABLE):
            return _make_absolute(Path(named).expanduser())
        if os.geteuid() == 0:
            return ROOT_HOME
        import platformdirs  # 7 ms, which a named folder saves

        return _make_absolute(platformdirs.user_data_path("payproc"))
    except RuntimeError as error:  # an unknown ~user, or a user without a home directory
        raise CannotFinish(
            f"the embedded database has no folder: the home directory is unknown; set {HOME_VARIABLE} to a full path"
        ) from error


def _make_absolute(folder: Path) -> Path:
    try:
        return folder.absolute()
    except FileNotFoundError as error:
        raise CannotFinish(
            f"the embedded database cannot use {folder}: the working directory does not exist any more; set "
            f"{HOME_VARIABLE} to a full path"
        ) from error


@contextmanager
def explain_errors(home: Path) -> Iterator[None]:
    """Turn an OSError into CannotFinish, with a remedy."""
    try:
        yield
    except OSError as error:
        has_place = isinstance(error.filename, str) and Path(error.filename) != home
        where = f"{error.filename}: " if has_place else ""
        advice = _ADVICE_BY_ERRNO.get(error.errno or 0, f"set {HOME_VARIABLE} to a folder that you may write")
        raise CannotFinish(
            f"the embedded database cannot use {home}: {where}{error.strerror or error}; "
            f"{advice}, or name a server with --database-url"
        ) from error


class Home:
    """The folder of one embedded server.

    `owner` is the server's user if root uses the home, else None.
    """

    def __init__(self, path: Path, note: Note) -> None:
        self._named = path.absolute()
        self._show = note
        self.path = Path(os.path.realpath(path))
        self.owner: pwd.struct_passwd | None = None

    @property
    def data(self) -> Path:
        """The data directory of the server."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / "log"

    def prepare(self) -> None:
        """Make the home, closed to other users. As root, make it the server's own."""
        if "\n" in str(self.path):
            raise CannotFinish(
                f"the embedded database cannot live in {self.path}: PostgreSQL takes no line break in a path; "
                f"set {HOME_VARIABLE} to another folder"
            )
        if os.geteuid() == 0:
            self._refuse_roots_directory()
            self.path, self.owner = root.claim_home(self._named, self.note)
        else:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._refuse_folder_of_others()
            root.refuse_other_files(self.path, [path.name for path in self.path.iterdir()])
            self.path.chmod(0o700)
        os.close(self.open("start.lock"))

    def _refuse_roots_directory(self) -> None:
        try:
            roots_directory = Path(os.path.realpath(pwd.getpwuid(0).pw_dir))
        except KeyError:  # a container without /etc/passwd
            return
        if roots_directory != Path("/") and roots_directory in (self.path, *self.path.parents):
            raise CannotFinish(
                f"as root the embedded database cannot live in root's home, {self.path}: its server runs as the "
                f"user {root.SYSTEM_USER}, which must not enter there; set {HOME_VARIABLE} to another folder"
            )

    def _refuse_folder_of_others(self) -> None:
        """Raise CannotFinish if the home belongs to another user, as a container's volume may."""
        owner, user = self.path.stat().st_uid, os.geteuid()
        if owner == user:
            return
        can_write = os.access(self.path, os.W_OK)
        remedy = f"such as {self.path}/payproc" if can_write else f"or give this one to the uid {user} (chown)"
        raise CannotFinish(
            f"the embedded database cannot use {self.path}: it belongs to the uid {owner}, expected {user}; "
            f"set {HOME_VARIABLE} to a folder of your own, {remedy}, or name a server with --database-url"
        )

    def act_as_owner(self) -> AbstractContextManager[None]:
        """Act with the rights of the home's owner."""
        return nullcontext() if self.owner is None else root.act_as(self.owner.pw_uid, self.owner.pw_gid)

    def act_as_root(self) -> AbstractContextManager[None]:
        """Act as root again, if the process is root's."""
        return nullcontext() if self.owner is None else root.act_as(0, 0)

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file of the home, or create it, as the owner's file and never through a link."""
        flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.act_as_owner():
            return os.open(self.path / name, flags, 0o600)

    def note(self, line: str, *, always: bool = False) -> None:
        """Show a line as root, because showing may import modules that only root can read."""
        with self.act_as_root():
            self._show(line, always=always)

    def poll(self, seconds: float, explain: Callable[[], str]) -> Iterator[None]:
        """Yield at each poll until the time is up. Show the reason once if the wait gets long.

        Raises KeyboardInterrupt after a signal, except while the server is stopped.
        """
        began = time.monotonic()
        is_explained = False
        while (waited := time.monotonic() - began) < seconds:
            yield
            if waited > _QUIET_SECONDS and not is_explained:
                self.note(explain())
                is_explained = True
            time.sleep(_POLL_SECONDS)
            interrupt.check()


@contextmanager
def close_at_end(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end of the block, which gives back its lock."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of a file. Return False if another process holds one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_for(descriptor: int, seconds: float) -> bool:
    """Take the exclusive lock of a file within some seconds. Signals do not end the wait."""
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
