"""Root: the server's user, and the homes that root may use."""

import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from payproc.embedded import root
from payproc.embedded.server import run_server
from payproc.errors import CannotFinish
from tests.support.homes import (
    NOBODY,
    connect,
    only_root,
    read_mode,
    read_refusal,
    read_server_process,
    run_command,
    succeed,
)

pytestmark = only_root

UNKNOWN_USER = 54321


def find_files_of_others(home: Path, uid: int) -> list[Path]:
    return [path for path in (home, *home.rglob("*")) if path.lstat().st_uid != uid]


def test_server_runs_as_system_user(folder: Path) -> None:
    """That user may pass through closed folders above the home, which is noted once."""
    outer, inner = folder / "outer", folder / "outer" / "inner"
    for closed in (outer, inner):
        closed.mkdir(mode=0o700)
    notes = succeed(inner / "home", "init")
    for closed in (outer, inner):
        assert f"payproc: letting the server's user payproc pass through {closed} (chmod o+x)\n" in notes
        assert read_mode(closed) == 0o701
    assert "letting" not in succeed(inner / "home", "init")
    with run_server(inner / "home"):
        process = Path(f"/proc/{read_server_process(inner / 'home')}")
        assert process.stat().st_uid == pwd.getpwnam("payproc").pw_uid


def test_home_below_roots_home_is_refused(folder: Path) -> None:
    roots_home = Path(pwd.getpwuid(0).pw_dir)
    before = (read_mode(roots_home), sorted(roots_home.iterdir()))
    (folder / "link").symlink_to(roots_home)
    for home in (roots_home / "payproc-test" / "home", folder / "link" / "payproc-test"):
        assert read_refusal(home) == (
            f"as root the embedded database cannot live in root's home, {home.resolve()}: its server runs as the "
            "user payproc, which must not enter there; set PAYPROC_HOME to another folder"
        )
    assert (read_mode(roots_home), sorted(roots_home.iterdir())) == before


def test_home_of_unnamed_user_is_refused(home: Path) -> None:
    home.mkdir()
    os.chown(home, UNKNOWN_USER, UNKNOWN_USER)
    assert read_refusal(home) == (
        f"the embedded database cannot use {home}: it belongs to the uid {UNKNOWN_USER}, which has no line in "
        f"/etc/passwd; set PAYPROC_HOME to a new folder, such as {home}/payproc, or run payproc as that uid"
    )


def test_missing_useradd_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(root, "SYSTEM_USER", "no-such-user")
    with pytest.raises(CannotFinish) as caught:
        root.ensure_system_user()
    assert str(caught.value) == (
        "PostgreSQL refuses to run as root, and the system user no-such-user could not be created: useradd: No such "
        "file or directory; add that user, set PAYPROC_HOME to a folder of another user, or run payproc as an "
        "ordinary user"
    )


@pytest.mark.slow
def test_home_of_other_user_stays_that_users(home: Path) -> None:
    home.mkdir()
    os.chown(home, NOBODY, pwd.getpwuid(NOBODY).pw_gid)
    succeed(home, "init")
    assert find_files_of_others(home, NOBODY) == []


@pytest.mark.slow
def test_home_below_unnamed_user_is_the_servers(users_folder: Path) -> None:
    """As in a container, where a mounted folder belongs to a number without a user."""
    os.chown(users_folder, UNKNOWN_USER, UNKNOWN_USER)
    home = users_folder / "new" / "home"
    succeed(home, "init")
    succeed(home, "init")
    assert find_files_of_others(home, pwd.getpwnam("payproc").pw_uid) == []
    assert (home.parent.stat().st_uid, list(home.parent.iterdir())) == (UNKNOWN_USER, [home])


def test_home_restored_by_root_is_the_servers(made_home: Path) -> None:
    subprocess.run(["chown", "-R", "root:root", made_home], check=True)
    succeed(made_home, "init")
    assert [path for path in made_home.rglob("*") if path.lstat().st_uid == 0] == []


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("start.lock", "users.lock", "server.lock")), "log"],
)
def test_link_in_the_home_is_not_followed(made_home: Path, name: str) -> None:
    secret = made_home.parent / "secret"
    secret.write_text("root's own")
    before = secret.stat()
    (made_home / name).unlink()
    (made_home / name).symlink_to(secret)
    assert run_command(made_home, "init").returncode == 1
    after = secret.stat()
    assert (after.st_uid, after.st_mode, secret.read_text()) == (before.st_uid, before.st_mode, "root's own")


def test_root_requires_a_server_of_the_owner(made_home: Path) -> None:
    with run_server(made_home) as server:
        name = pwd.getpwuid(made_home.stat().st_uid).pw_name
        assert server.connect_args["requirepeer"] == name
        connect(server).close()


def test_rights_are_roots_again_afterwards(made_home: Path) -> None:
    before = os.geteuid(), os.getegid(), os.getgroups()
    with run_server(made_home):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    with pytest.raises(OSError, match="planted"), root.act_as(NOBODY, grp.getgrgid(NOBODY).gr_gid):
        raise OSError("planted")
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
