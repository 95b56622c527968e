"""Root: reaching a home that belongs to another user, and the rights for each step.

PostgreSQL refuses to run as root, so root's home belongs to another user. At any moment that user
may move a folder of the home, or put a link in its place.

In the home, root acts as its owner, so a planted link leads only where the owner may go anyway. On
the way there, root opens one folder at a time by descriptor and expands links itself. Below another
user's folder or link, folders are created and changed with that user's rights. A folder of root is
given to the server's user only if root owns the whole way.
"""

import errno
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from payproc.errors import CannotFinish
from payproc.notes import Note

SYSTEM_USER = "payproc"

_MAX_LINKS = 40
"""Links on the way to the home. More count as a loop, as in Linux."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def act_as(uid: int, gid: int) -> Iterator[None]:
    """Act with the rights of a user, which count for all threads of the process."""
    before = os.geteuid(), os.getegid(), os.getgroups()
    try:
        _become(uid, gid, [])
        yield
    finally:
        _become(*before)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    try:
        os.seteuid(0)  # only root may change the others
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)
    except OSError as error:  # in a container without capabilities, or with few uids
        raise CannotFinish(
            f"PostgreSQL refuses to run as root, and root may not run it as another user here: {error.strerror}; "
            "run payproc as an ordinary user, allow the capabilities SETUID, SETGID and CHOWN, "
            "or name a server with --database-url"
        ) from error


def claim_home(home: Path, note: Note) -> tuple[Path, pwd.struct_passwd]:
    """Return the home's path without links, and its owner.

    Create a missing home, and let the owner reach it.

    Raises OSError, with the home as its file name, if the home cannot be reached or created.
    """
    with ExitStack() as descriptors:
        try:
            *above, folder = _descend(home, descriptors)
            names = os.listdir(folder.descriptor)  # noqa: PTH208 - a descriptor
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(home)) from error
        refuse_other_files(folder.path, names)
        uid = os.fstat(folder.descriptor).st_uid
        if uid == 0 and folder.reached_by.uid != 0:
            raise CannotFinish(
                f"the embedded database cannot use {folder.path}: it belongs to root, inside a folder or behind a link "
                "of another user; give it to the user who is to run the server (chown)"
            )
        owner = _find_owner(folder.path, uid) if uid else ensure_system_user()
        for parent in above:
            _let_pass(parent, owner, note)
        if uid == 0:
            _give_away(folder.descriptor, owner)
        with act_as(owner.pw_uid, owner.pw_gid):
            os.fchmod(folder.descriptor, 0o700)
        return folder.path, owner


def refuse_other_files(home: Path, names: Sequence[str]) -> None:
    """Raise CannotFinish if a folder with these entries is neither empty nor a home."""
    if names and "start.lock" not in names:
        raise CannotFinish(
            f"the embedded database needs a folder of its own, but {home} holds other files; "
            f"set PAYPROC_HOME to a new or empty folder, such as {home}/payproc"
        )


def _give_away(home: int, owner: pwd.struct_passwd) -> None:
    """Give a home of root, such as a restored copy, to the server's user.

    Inside, give away root's own files.
    """
    os.fchmod(home, 0o700)  # closed first, so that nobody can add a link to a file of root
    for _, folders, files, descriptor in os.fwalk(dir_fd=home):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
                os.chown(name, owner.pw_uid, owner.pw_gid, dir_fd=descriptor, follow_symlinks=False)
    os.fchown(home, owner.pw_uid, owner.pw_gid)


class _Rights(NamedTuple):
    """The rights of a user."""

    uid: int
    gid: int

    def below(self, found: os.stat_result) -> "_Rights":
        """Return the rights below a folder or link.

        Root's rights end at the first one of another user.
        """
        return self if self.uid else _Rights(found.st_uid, found.st_gid)


class _Folder(NamedTuple):
    """A folder on the way to the home: the rights that reach it, and the rights inside."""

    path: Path
    descriptor: int
    reached_by: _Rights
    rights: _Rights


def _descend(home: Path, descriptors: ExitStack) -> list[_Folder]:
    """Open every folder from / to the home. Create missing ones."""
    folders: list[_Folder] = []

    def enter(name: str, reached_by: _Rights) -> None:
        path, parent = (folders[-1].path / name, folders[-1].descriptor) if folders else (Path(name), None)
        descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
        descriptors.callback(os.close, descriptor)
        folders.append(_Folder(path, descriptor, reached_by, reached_by.below(os.fstat(descriptor))))

    enter("/", _Rights(0, 0))
    rights = folders[0].rights
    names = list(reversed(home.parts[1:]))
    links = 0
    while names:
        name = names.pop()
        if name == "..":
            del folders[max(1, len(folders) - 1) :]
            continue
        here = folders[-1].descriptor
        try:
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            if names:
                with act_as(*rights), suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=here)
            else:
                _make_home(name, here, rights)
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, "")
            rights = rights.below(found)
            target = os.readlink(name, dir_fd=here)
            if target.startswith("/"):
                del folders[1:]
            names += [part for part in reversed(target.split("/")) if part not in ("", ".")]
            continue
        if not names and not stat.S_ISDIR(found.st_mode):
            raise FileExistsError(errno.EEXIST, "")
        enter(name, rights)
        rights = folders[-1].rights
    return folders


def _make_home(name: str, parent: int, rights: _Rights) -> None:
    """Create a home for the system user. It becomes visible when it belongs to that user."""
    owner = ensure_system_user()
    unfinished = f".{name[:200]}-{os.urandom(4).hex()}"
    with act_as(*rights):
        os.mkdir(unfinished, 0o700, dir_fd=parent)
    descriptor = os.open(unfinished, _FOLDER_FLAGS, dir_fd=parent)
    try:
        if os.fstat(descriptor).st_uid == rights.uid:
            os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
    finally:
        os.close(descriptor)
    try:
        os.rename(unfinished, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:  # another command created it at the same moment, and uses it
        os.rmdir(unfinished, dir_fd=parent)


def _let_pass(folder: _Folder, owner: pwd.struct_passwd, note: Note) -> None:
    """Let the server's user pass through a folder above the home."""
    found = os.fstat(folder.descriptor)
    if found.st_mode & stat.S_IXOTH or (found.st_uid == owner.pw_uid and found.st_mode & stat.S_IXUSR):
        return
    with act_as(*folder.rights):
        os.fchmod(folder.descriptor, stat.S_IMODE(found.st_mode) | stat.S_IXOTH)
    note(f"letting the server's user {owner.pw_name} pass through {folder.path} (chmod o+x)")


def _find_owner(home: Path, uid: int) -> pwd.struct_passwd:
    """Return the user that owns a home. Raises CannotFinish if the number has no name."""
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise CannotFinish(
            f"the embedded database cannot use {home}: it belongs to the uid {uid}, which has no line in /etc/passwd; "
            f"set PAYPROC_HOME to a new folder, such as {home}/payproc, or run payproc as that uid"
        ) from error


def ensure_system_user() -> pwd.struct_passwd:
    """Return the user that runs root's server. Create the user if need be."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--user-group", "--no-create-home"]
    command += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"useradd: {error.strerror}" if isinstance(error, OSError) else error.stderr.strip()
        try:
            return pwd.getpwnam(SYSTEM_USER)  # another command created it at the same moment
        except KeyError:
            raise CannotFinish(
                f"PostgreSQL refuses to run as root, and the system user {SYSTEM_USER} could not be created: {reason}; "
                "add that user, set PAYPROC_HOME to a folder of another user, or run payproc as an ordinary user"
            ) from error
    return pwd.getpwnam(SYSTEM_USER)
