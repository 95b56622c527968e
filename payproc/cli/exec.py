"""`payproc exec`: run psql, pg_dump or any other program on the database of a command.

Belongs here: the user's program as a child process. Its connection is made in db/variables.py.

The child gets the standard streams and every open descriptor untouched, and runs as the caller, as
root too. payproc waits for its end, because a command that leaves may stop the embedded server.
"""

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import make_notifier
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import DatabaseUrl, Quiet, format_examples
from payproc.errors import PayprocError, WrongUsage
from payproc.signals import interrupt, pass_signals_on

if TYPE_CHECKING:
    from payproc.db.variables import Target

EXAMPLES = format_examples(
    "payproc exec pg_dump -Fc -n payproc -f books.dump",
    'payproc exec psql -c "SELECT count(*) FROM payproc.events"',
)

CANNOT_RUN = 126
NOT_FOUND = 127
"""Exit codes of a shell for a command that it cannot start."""


class CannotStart(PayprocError):
    """The user's program could not be started."""

    exit_code = CANNOT_RUN

    def __init__(self, program: str, path: str, error: OSError) -> None:
        problem = f"cannot be run: {error.strerror}"
        if isinstance(error, FileNotFoundError):
            problem = "not found, expected a program in PATH"
            if shutil.which(program, path=path):  # the file is there, so it is a script
                problem = "cannot be run: the interpreter in its first line was not found"
            else:
                self.exit_code = NOT_FOUND
        super().__init__(f"{program}: {problem}")


def execute(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Program and its arguments.", show_default="psql")
    ] = None,
    may_write: Annotated[bool, typer.Option("--write", help="Allow transactions that write.")] = False,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Run psql, pg_dump or any other program on the database.

    It finds the database in the variables PGHOST, PGPORT, PGUSER, PGDATABASE and so on, and
    PostgreSQL's own programs in PATH. The exit code is that of the program.
    """
    with exit_on_errors():
        from payproc.db import location, variables  # late

        if command and not command[0]:
            raise WrongUsage("COMMAND: empty name, expected a program and its arguments")
        before = dict(os.environ)  # opening the embedded database removes variables
        with location.open_database(database_url, make_notifier(quiet)) as database:
            target = variables.find_target(database)
            if not may_write:
                target = variables.make_read_only(target, database)
            environment = variables.build_environment(before, target)
            if not database.is_embedded:  # payproc itself prefers it to PGHOST
                environment[location.URL_VARIABLE] = "postgresql://"
            environment["PATH"] = _build_path(environment.get("PATH", os.defpath), target)
            code = _run(command or ["psql"], environment)
        raise typer.Exit(code)


def _build_path(path: str, target: "Target") -> str:
    """Return a PATH with PostgreSQL's programs, first unless they cannot reach the database."""
    from payproc.embedded.binaries import BINARIES_VARIABLE, find_programs  # late

    programs = find_programs(target.version)
    if programs is None:
        return path
    needs_tls = target.uses_tls and not os.environ.get(BINARIES_VARIABLE)  # the wheel's have none
    return os.pathsep.join([path, str(programs)] if needs_tls else [str(programs), path])


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end. Return its exit code as a shell would."""
    with interrupt.put_off():
        try:
            # close_fds would break a shell's <(...). payproc's own descriptors close themselves.
            process = subprocess.Popen(command, env=environment, close_fds=False)
        except OSError as error:
            raise CannotStart(command[0], environment["PATH"], error) from error
        with pass_signals_on(process):
            code = process.wait()
    return code if code >= 0 else 128 - code
