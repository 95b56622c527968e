"""Attacks on root by the owner of a home, who may plant links and swap folders at any moment.

The attackers are real processes of another user.
"""

import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from payproc.embedded.binaries import BINARIES_VARIABLE
from payproc.embedded.home import Home
from payproc.embedded.server import run_server
from payproc.errors import CannotFinish
from payproc.notes import drop_note
from tests.support.homes import (
    NOBODY,
    Holder,
    become_nobody,
    is_running,
    only_root,
    read_owner,
    read_refusal,
    run_command,
    write_pid_file,
    write_programs,
)
from tests.support.postgres import wait_for

pytestmark = only_root


@contextmanager
def attacker(act: Callable[[], object]) -> Iterator[None]:
    """Have a process of the user nobody act again and again."""
    child = os.fork()
    if child == 0:
        try:
            become_nobody()
            while True:
                with suppress(OSError):
                    act()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow
def test_link_planted_at_creation_gains_nothing(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are appended to postgresql.conf after initdb, which leaves time for a link.

    An initdb that plants it itself is never late.
    """
    secret = folder / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    plant = f'mkdir "$2" && ln -s {secret} "$2/postgresql.conf"'
    programs = write_programs(folder / "programs", "echo 'postgres (PostgreSQL) 18.4'", plant)
    monkeypatch.setenv(BINARIES_VARIABLE, str(programs))
    done = run_command(home, "init")
    assert (home / "data-half-done" / "postgresql.conf").readlink() == secret
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert secret.read_text() == "root's own"
    assert read_owner(secret) == (0, 0, 0o600)


@pytest.mark.slow
def test_folder_swapped_in_is_not_given_away(users_folder: Path, secret_folder: Path) -> None:
    home = users_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    before = read_owner(secret_folder)

    numbers = itertools.count()

    def swap() -> None:
        aside = users_folder / str(next(numbers))  # another one if root has just created a home in between
        home.rename(aside)
        home.symlink_to(secret_folder)
        home.unlink()
        aside.rename(home)

    attempts = prepared = 0
    with attacker(swap):
        # Until some are disturbed, and some not.
        while attempts < 2_000 or (attempts < 100_000 and prepared in (0, attempts)):
            attempts += 1
            with suppress(CannotFinish, OSError):
                Home(home, drop_note).prepare()
                prepared += 1
    assert 0 < prepared < attempts
    assert read_owner(secret_folder) == before
    assert list(secret_folder.iterdir()) == []


@pytest.mark.parametrize("name", ["secret", "secret/new", "secret/new/home"])
def test_folder_behind_a_link_is_not_given_away(users_folder: Path, secret_folder: Path, name: str) -> None:
    link = users_folder / "secret"
    link.symlink_to(secret_folder)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    before = read_owner(secret_folder)
    message = read_refusal(users_folder / name)
    assert message.startswith(f"the embedded database cannot use {secret_folder if name == 'secret' else link}")
    assert "belongs to root" in message or "Permission denied" in message
    assert read_owner(secret_folder) == before
    assert list(secret_folder.iterdir()) == []


def test_roots_folder_below_users_stays_closed(users_folder: Path) -> None:
    closed = users_folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "home").mkdir()
    os.chown(closed / "home", NOBODY, NOBODY)
    assert "Operation not permitted" in read_refusal(closed / "home")
    assert read_owner(closed) == (0, 0, 0o700)


@pytest.mark.slow
def test_planted_socket_leads_to_no_root_server(made_home: Path, secret_folder: Path) -> None:
    """A link or postmaster.pid names a socket that only root may use. Root does not connect."""
    address = secret_folder / ".s.PGSQL.5432"
    with socket.socket(socket.AF_UNIX) as roots_server, server_lock_held(made_home):
        roots_server.bind(str(address))
        roots_server.listen()
        roots_server.setblocking(False)
        (made_home / ".s.PGSQL.5432").symlink_to(address)
        for folder in (made_home, secret_folder):
            write_pid_file(made_home, folder, "ready")
            command = Holder(made_home)
            assert "does not answer; waiting for it to end: end the other commands" in command.read_line()
            command.kill()
        with pytest.raises(BlockingIOError):
            roots_server.accept()


@contextmanager
def server_lock_held(home: Path) -> Iterator[None]:
    """Hold `server.lock`, as a running server does."""
    holder = subprocess.Popen(["flock", "--no-fork", home / "server.lock", "sleep", "600"])
    try:
        wait_for(lambda: is_running(home))
        yield
    finally:
        holder.kill()
        holder.wait()


def test_planted_log_shows_root_nothing(made_home: Path, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("2026-11-25 UTC [1] FATAL:  root's own words\n")
    secret.chmod(0o600)
    with run_server(made_home) as server:
        pass
    for plant in (Path.symlink_to, Path.hardlink_to):
        (made_home / "log").unlink()
        plant(made_home / "log", secret)
        assert server.explain_end() == f"its server has ended (see {made_home}/log)"
    (made_home / "log").unlink()
