"""Containers without an engine: commands in mount and PID namespaces, with any uid.

The root file system of such a container can be read-only. Its users are those of this machine,
without the user that runs root's server. Process 1 is the command itself.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import COMMAND
from tests.support.documents import ROOT
from tests.support.homes import IS_ROOT

UNNAMED = 123456
"""A uid without a line in /etc/passwd, as OpenShift and `docker --user` give one."""

_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_PROBE = (*_NAMESPACES, "true")


def can_make_namespaces() -> bool:
    """Return whether this process may make mount and PID namespaces."""
    return IS_ROOT and shutil.which("unshare") is not None and subprocess.run(_PROBE, check=False).returncode == 0


in_namespaces = pytest.mark.skipif(
    not can_make_namespaces(), reason="it takes root, with mount and PID namespaces: run it once as root on a machine"
)


class Container:
    """A place for commands: an own root file system at `folder`, of the files of this machine."""

    def __init__(self, folder: Path, home: Path, uid: int = 0, *, read_only: bool = False, **environment: str) -> None:
        self.folder = folder
        self.volume = home.parent
        self.uid = uid
        self.read_only = read_only
        self.environment = {"PATH": os.environ["PATH"], "PAYPROC_HOME": str(home), **environment}

    def start(self, *command: str | Path, drop: str = "") -> "subprocess.Popen[str]":
        """Start a command as process 1. `drop` lists capabilities that even root lacks."""
        user = [f"--reuid={self.uid}", "--regid=0", "--clear-groups"] if self.uid else []
        limits = ["setpriv", *user, *([f"--bounding-set={drop}"] if drop else [])]
        return subprocess.Popen(
            [*_NAMESPACES, "sh", "-ec", self._build_script(), "sh", *limits, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd="/",
        )

    def run(self, *arguments: str, events: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run the installed command as process 1, to its end."""
        with self.start(COMMAND, *arguments, **options) as process:
            stdout, stderr = process.communicate(events, timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def refusal(self, *arguments: str, **options: Any) -> str:
        """Run a command that must fail with 1. Return its last line on stderr."""
        done = self.run(*(arguments or ("init",)), **options)
        assert (done.returncode, done.stdout) == (1, ""), done
        return done.stderr.splitlines()[-1].removeprefix("payproc: ")

    def _build_script(self) -> str:
        """Return the shell script that mounts the root file system and runs the command there."""
        root = self.folder / "root"
        root.mkdir(parents=True, exist_ok=True)
        passwd = self.folder / "passwd"
        users = Path("/etc/passwd").read_text().splitlines(keepends=True)
        passwd.write_text("".join(user for user in users if not user.startswith("payproc:")))
        steps = [f"mount --rbind / {root}", f"mount --bind {self.volume} {root}{self.volume}"]
        if self.read_only:
            steps += [f"mount -o remount,bind,ro {root}"]
        # The interpreter may lie in a folder that only root may enter.
        needed = {COMMAND.parents[1], Path(sys.base_prefix).resolve(), ROOT}
        closed = {place: top for place in needed if (top := _find_closed(place)) is not None}
        steps += [f"mount -t tmpfs -o mode=755 tmpfs {root}{top}" for top in set(closed.values())]
        for place in closed:
            steps += [f"mkdir -p {root}{place}", f"mount --bind {place} {root}{place}"]
        return "\n".join([*steps, f"mount --bind {passwd} {root}/etc/passwd", f'exec chroot {root} "$@"'])


def _find_closed(place: Path) -> Path | None:
    """Return the first folder on the way that only its owner may enter, None if there is none."""
    return next((top for top in reversed(place.parents) if not top.stat().st_mode & 0o001), None)
