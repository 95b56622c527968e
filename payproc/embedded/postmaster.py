"""Postmaster: the main process of a server, and the data directory that it runs.

Belongs here: starting, finding and stopping that process, by `server.lock` and by PostgreSQL's
own pid file.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from payproc.embedded.binaries import POSTGRES_VERSION, find_binaries, find_named_binaries
from payproc.embedded.home import Home, close_at_end, try_lock
from payproc.embedded.initdb import create_data
from payproc.embedded.log import LOG_SETTINGS, find_error, shorten_log
from payproc.embedded.process import describe_kill, hold_process, refuse_small_files, spawn
from payproc.embedded.sockets import choose_socket_folder, find_listener, is_private_folder, remove_socket_folder
from payproc.errors import CannotFinish

START_SECONDS = 600
"""Seconds to wait for a server. Recovery after a crash reads up to max_wal_size (2 GB) of WAL."""

STOP_SECONDS = 60
"""Seconds to wait for a stop, which writes a checkpoint of up to shared_buffers (512 MB)."""

LEAVE_SECONDS = 10
"""Seconds to wait on leaving for a busy server, or for another command that starts or stops it."""


@dataclass(frozen=True)
class PidFile:
    """A snapshot of postmaster.pid, without lines if the file is missing.

    Its lines: process, data folder, start time, port, socket folder, address, shared memory,
    status.
    """

    lines: list[str]

    @classmethod
    def read(cls, data: Path) -> "PidFile":
        """Read the file of a data directory."""
        try:
            return cls(os.fsdecode((data / "postmaster.pid").read_bytes()).split("\n"))
        except FileNotFoundError:
            return cls([])

    @property
    def status(self) -> str:
        """The server's status, such as `ready`, or nothing."""
        return self.lines[7].strip() if len(self.lines) > 7 else ""

    def is_ready(self, process: int) -> bool:
        """Return whether this process accepts connections."""
        return bool(self.lines) and self.lines[0] == str(process) and self.status == "ready"

    def socket_folder(self, home: Path) -> Path:
        """Return the private folder of the socket, else the home.

        The file's own path of the home may differ, because a container may have another one.
        """
        return Path(self.lines[4]) if len(self.lines) > 4 and is_private_folder(self.lines[4]) else home


class Postmaster:
    """The server of one data directory. `process` is its main one if this command started it."""

    def __init__(self, home: Home, version: int) -> None:
        """Find the version of the data directory. A new one gets that of the named programs."""
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        with home.act_as_owner():
            found = self._find_version()
        named = None if found else find_named_binaries()
        self.version = found or (named[1] if named else version)

    def _find_version(self) -> int | None:
        """Return the version of the data directory, None if there is none."""
        try:
            text = (self.home.data / "PG_VERSION").read_bytes()
        except FileNotFoundError:
            return None
        if not re.fullmatch(rb"[1-9][0-9]{0,3}\n?", text):
            problem = f"holds {text[:20].decode(errors='replace')!a}" if text else "is empty"
            raise CannotFinish(
                f"the embedded database in {self.home.data} is damaged: its file PG_VERSION {problem}, "
                f"expected a version such as {POSTGRES_VERSION}"
            )
        return int(text)

    def start(self) -> Path:
        """Return the socket folder of the server. Create and start the server if need be."""
        with self.home.act_as_owner():
            shorten_log(self.home)
            with close_at_end(self.home.open("server.lock")) as lock:
                if (socket_folder := self._find_running(lock, START_SECONDS)) is not None:
                    return socket_folder
                refuse_small_files()
                binaries = find_binaries(self.home, self.version)
                if self._find_version() is None:
                    create_data(self.home, binaries, self.version, lock)
                # PostgreSQL refuses a folder that others may enter, as after fsGroup of Kubernetes.
                self.home.data.chmod(0o700)
                self._disown_pid_files()
                command = self._build_command(binaries)
                with close_at_end(self.home.open("log", os.O_APPEND)) as log:
                    log_start = os.fstat(log).st_size
                    self.process = process = spawn(self.home, command, log, lock)
            return self._wait_until_ready(process, log_start)

    def stop(self) -> None:
        """Stop the server. No command uses it any more, so it only writes a checkpoint."""
        # As the owner, so that even root signals only the owner's processes.
        with self.home.act_as_owner():
            pid = self._find_process_to_stop()
            if pid is None:
                return
            # PostgreSQL's fast shutdown can hang for ever if it comes during the recovery from the
            # crash of a backend. The immediate one is a crash, which loses nothing.
            with hold_process(pid) as send:
                if not (self._end(send, signal.SIGINT, STOP_SECONDS) or self._end(send, signal.SIGQUIT, LEAVE_SECONDS)):
                    return  # the stop continues; the next command waits for it
            if self.process is not None:
                self.process.wait()
            remove_socket_folder(self.home)

    def _end(self, send: Callable[[signal.Signals], None], how: signal.Signals, seconds: int) -> bool:
        """Signal the server; return whether all of its processes end in time."""
        with suppress(ProcessLookupError):
            send(how)
        with close_at_end(self.home.open("server.lock")) as lock:
            polls = self.home.poll(seconds, lambda: "the embedded database is writing its last checkpoint")
            return any(try_lock(lock) for _ in polls)

    def _find_process_to_stop(self) -> int | None:
        if self.process is not None and self.process.poll() is None:
            return self.process.pid
        with close_at_end(self.home.open("server.lock")) as lock:
            try:
                socket_folder = self._find_running(lock, LEAVE_SECONDS)
            except CannotFinish:
                return None  # it does not answer; the next command waits for it
        if socket_folder is None:
            return None
        listener = find_listener(socket_folder)  # None if another process has stopped it since
        if listener == 0:
            self.home.note(
                f"the embedded database in {self.home.path} is left running, because it runs in another container "
                "(PID namespace); the last command there stops it"
            )
            return None
        return listener

    def _find_running(self, lock: int, seconds: int) -> Path | None:
        """Return the socket folder of a server that accepts connections.

        Wait for a server that starts, recovers or ends. None means that no process of the server is
        left, and that this command now holds `lock`.
        """
        for _ in self.home.poll(seconds, self._explain_wait):
            if try_lock(lock):
                return None
            pid_file = PidFile.read(self.home.data)
            socket_folder = pid_file.socket_folder(self.home.path)
            if pid_file.status == "ready" and find_listener(socket_folder) is not None:
                return socket_folder
        raise CannotFinish(
            f"the embedded database in {self.home.path} has not answered for {seconds} s; see {self.home.log}, or end "
            f"it with kill -QUIT and the process id in the first line of {self.home.data}/postmaster.pid"
        )

    def _explain_wait(self) -> str:
        pid_file = PidFile.read(self.home.data)
        if pid_file.status != "ready":
            status = pid_file.status or "starting or ending"
            return f"waiting for the embedded database in {self.home.path}, which is {status}"
        return (
            f"the embedded database in {self.home.path} runs, but its socket {pid_file.socket_folder(self.home.path)}"
            "/.s.PGSQL.5432 does not answer; waiting for it to end: end the other commands that use it, or stop it "
            f"with kill -INT and the process id in the first line of {self.home.data}/postmaster.pid"
        )

    def _build_command(self, binaries: Path) -> list[str]:
        settings = (
            "listen_addresses=",
            f'unix_socket_directories="{choose_socket_folder(self.home)}"',
            "unix_socket_permissions=0700",
            *LOG_SETTINGS,
        )
        options = [option for setting in settings for option in ("-c", setting)]
        return [str(binaries / "postgres"), "-D", str(self.home.data), *options]

    def _disown_pid_files(self) -> None:
        """Keep the pid files of a crashed server from stopping the next one.

        PostgreSQL refuses to start while a process of the same user has the recorded number, even a
        zombie or an unrelated process. `server.lock` has proved that the server is gone. PostgreSQL
        ignores the number of its own parent, and still checks by the rest of the file that no
        process is left in the shared memory.
        """
        (self.home.path / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        lines = PidFile.read(self.home.data).lines
        if lines:
            flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW
            # This process is the parent of the next server.
            with close_at_end(os.open(self.home.data / "postmaster.pid", flags)) as file:
                os.write(file, os.fsencode("\n".join([str(os.getpid()), *lines[1:]])))

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", log_start: int) -> Path:
        for _ in self.home.poll(
            START_SECONDS, lambda: "the embedded database is starting; after a crash this can take minutes"
        ):
            if process.poll() is not None:
                cause = describe_kill(process.returncode) or find_error(self.home.log, log_start)
                raise CannotFinish(f"the embedded database in {self.home.path} did not start: {cause}")
            pid_file = PidFile.read(self.home.data)
            if pid_file.is_ready(process.pid):
                return pid_file.socket_folder(self.home.path)
        raise CannotFinish(f"the embedded database did not start within {START_SECONDS} s; see {self.home.log}")
