"""Shell scripts that run the installed command: pipes, redirections, limits."""

import subprocess
from typing import Any

from sqlalchemy import URL

from tests.support.command import COMMAND, Finished, Payproc


class Shell:
    """bash with the command as $0 and, if there is a second database, its URL as $1."""

    def __init__(self, payproc: Payproc, other: URL | None = None) -> None:
        self._payproc = payproc
        self._other = "" if other is None else other.set(drivername="postgresql").render_as_string(hide_password=False)

    def start(self, script: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a script and leave it running."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", script, COMMAND, self._other],
            cwd=self._payproc.folder,
            env={**self._payproc.environment, **options.pop("env", {})},
            text=True,
            **{**streams, **options},
        )

    def __call__(self, script: str, **options: Any) -> Finished:
        """Run a script to its end."""
        with self.start(script, **options) as process:
            stdout, stderr = process.communicate()
        return Finished(process.returncode, stdout, stderr)
