"""Arguments in, exit code out.

What belongs here: what the user may type, where output goes, and what the process ends with. No command does its work
here. Everything that is slow to import is imported by the command that needs it, so that `--help` answers at once.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 could not finish; 2 wrong usage; 3 done, but some
lines were malformed, an outcome named by --fail-on occurred, or what is on record does not add up; 130, 143 and 129
interrupted by SIGINT, SIGTERM and SIGHUP; 141 the reader of stdout went away.
"""

from payproc.signals import interrupt, let_signals_kill

let_signals_kill()

import gc

gc.disable()  # an import makes no garbage to look for

import atexit
import contextlib
import io
import itertools
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from payproc.errors import CannotFinish, PayprocError, WrongUsage
from payproc.escape import printable, printable_json, unambiguous
from payproc.logic import OUTCOME_OF, Outcome, Reason, Resolution, State

gc.freeze()  # what is imported stays until the end, and is not looked through again, not even then
gc.enable()
atexit.register(gc.freeze)

if TYPE_CHECKING:
    from payproc.cli.console import Screen
    from payproc.ingest.run import Summary
    from payproc.notes import Note

DONE_WITH_FINDINGS = 3
BROKEN_PIPE = 128 + signal.SIGPIPE

MAX_PROBLEMS_SHOWN = 20
"""How many malformed lines, or records left out of an export, are listed on stderr; the rest are counted."""

MAX_WORKERS = 64
"""More connections than the server has cores hurt; far more are a typing error."""

MAX_LIMIT = 1_000_000_000
"""Beyond any queue, and within what PostgreSQL takes for a limit."""

NOT_JSON_LINES = (
    'no line is an object, expected lines such as {"event_id": "evt_1", "payment_id": "pay_1", "type": "capture"}; '
    "jq -c writes JSON one object a line"
)
"""For who ingests a CSV file, an array, or objects over several lines: each line is listed, and none says it all."""

app = typer.Typer(
    name="payproc",
    help="Process payment events from JSON Lines: decide what is safe, refuse what is not, leave the rest to a person.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(str, Enum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


class RulesFormat(str, Enum):
    """How the rules are printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    MERMAID = "mermaid"


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="PostgreSQL to use; else DATABASE_URL, else .env, else the embedded one.",
        show_default=False,
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", case_sensitive=False, help="For a person or for a script.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and what was asked for explicitly.")]


def _examples(*commands: str) -> str:
    """What stands at the end of a command's help, as it is: without \b it would be filled like a paragraph."""
    return "\n".join(["\b", "Examples:" if commands[1:] else "Example:", *(f"  {command}" for command in commands)])


def main() -> None:
    """The console script."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as the process lives
    if sys.stdin is None or sys.stdout is None:
        # Going on would read from, or write into, whatever is opened next under the number of the closed one.
        _say("standard input or output is closed; use /dev/null for one that is not needed")
        raise SystemExit(WrongUsage.exit_code)
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer, io.RawIOBase):
        # PYTHONUNBUFFERED: what a short write leaves over would be lost without a word.
        buffered = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115
        sys.stdout = io.TextIOWrapper(buffered, sys.stdout.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        _show_usage_error(error)
        raise SystemExit(WrongUsage.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):  # a signal between two steps of entering a command
        _say("interrupted")
        raise SystemExit(128 + (interrupt.signal or signal.SIGINT)) from None
    except OSError as error:  # of --help and --version, which no command is around
        _abandon_stdout()
        _say(f"output could not be written: {error.strerror}")
        raise SystemExit(1) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # where --help meets one, the library exits with 1
            raise SystemExit(BROKEN_PIPE) from None
        raise
    raise SystemExit(code)


_UsageError: Any = typer.BadParameter.__bases__[0]
"""Click's, or Typer's own, which has no public name."""


def _show_usage_error(error: Any) -> None:
    """What is wrong with the arguments, which may hold anything: a password or control characters, too."""
    if not sys.argv[1:]:  # the message is the help, which has many lines
        typer.echo(error.ctx.get_help(), err=True)
        return
    from payproc.cli.usage import explained

    said = explained(error, sys.argv[1:], typer.main.get_command(app))
    if any("://" in text or _PASSWORD.search(text) for text in (error.message, said)):
        said = f"{_HIDDEN} is in the wrong place; a database is named with --database-url"
    _say(said)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"payproc {version('payproc')}")
        raise typer.Exit


@app.callback(epilog=_examples("payproc ingest day.jsonl"))
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(
    epilog=_examples(
        "payproc ingest day.jsonl",
        "zcat dump.jsonl.gz | payproc ingest --malformed to_mend.jsonl -",
        "payproc ingest day.jsonl --dry-run --fail-on REJECT",
    )
)
def ingest(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="JSON Lines, in this order; - or a pipe for stdin.")
    ] = None,
    output_format: FormatOption = Format.TABLE,
    decisions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write one JSON object a line on what became of it; - for stdout."),
    ] = None,
    malformed: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write malformed lines as they came, to mend and ingest again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Give the same report and write nothing.")] = False,
    fail_on: Annotated[
        list[Outcome] | None,
        typer.Option(
            metavar="OUTCOME",
            case_sensitive=False,
            help="Exit with 3 if APPLY, IGNORE, REJECT or MANUAL_REVIEW occurs; may be repeated.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=MAX_WORKERS, help="Connections to work with; payments are split among them."
        ),
    ] = 2,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Process payment events and record what became of them.

    Each event has its own transaction. Running the same input again is always safe: what is recorded is a duplicate.
    """
    with _reporting_errors():
        from payproc.db import location as db
        from payproc.db import schema
        from payproc.ingest.run import Ingest, Options
        from payproc.review import count_open

        names = _sources(files)
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as bar:
            outputs = _open_outputs(stack, names, decisions, malformed)
            database = stack.enter_context(db.open_database(database_url, _notifier(quiet), interruptible=False))
            if not dry_run:
                schema.prepare_schema(database, _say, create=True)
            is_there = not dry_run or schema.has_schema(database)  # connects, which is noted, before there is a bar
            stop = stack.enter_context(interrupt.noted())
            listed = ProblemLog()
            show_progress = not quiet and sys.stderr.isatty() and decisions != "-"
            on_progress = bar.enter_context(_progress_bar(_total_bytes(names), "bytes", show_progress))
            run = Ingest(
                database if is_there else None,
                names,
                Options(workers, dry_run, *outputs),
                on_malformed=listed.add,
                on_progress=on_progress,
            )

            def report(*, is_whole: bool) -> None:
                bar.close()
                listed.end("malformed line", "" if malformed is not None else "; --malformed FILE keeps them all")
                if is_whole and listed.is_no_object and not (run.summary.events or quiet):
                    _say(NOT_JSON_LINES)
                run.summary.database = database.where
                _print_summary(run.summary, is_whole, output_format, "-" in (decisions, malformed), quiet)
                if not (dry_run or quiet):
                    with contextlib.suppress(CannotFinish):  # if the database is gone, so be it: this is a courtesy
                        _print_waiting(count_open(database), output_format, "-" in (decisions, malformed))

            try:
                stop.check()
                _empty(outputs)
                run.run(stop)
            except PayprocError as error:
                if run.summary.lines:  # what is counted is recorded, also when the rest could not be
                    report(is_whole=False)
                if stop.signal is None:
                    raise
                _say(str(error))  # a signal to a whole group of processes may have ended the server as well
            else:
                report(is_whole=stop.signal is None)
        code = _exit_code(run.summary, interrupt.take(), fail_on or [])
    raise typer.Exit(code)


@app.command(epilog=_examples("payproc show pay_coat"))
def show(
    payment_id: Annotated[str, typer.Argument(metavar="PAYMENT_ID", help="As the events have it.", show_default=False)],
    output_format: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Show one payment: its state, its whole history, and conflicts."""
    with _reporting_errors():
        from payproc import payments
        from payproc.cli import render as reports
        from payproc.db import location as db
        from payproc.db import schema

        _refuse_undecodable("PAYMENT_ID", payment_id)
        with db.open_database(database_url, _notifier(quiet)) as database:
            schema.require_schema(database)
            with database.snapshot() as connection, connection.cursor() as cursor:
                payment = payments.load_payment(cursor, payment_id)
                its_event = None if payment else payments.payment_of(cursor, payment_id)
            if payment is None:
                hint = f'; it is an event_id of payment "{unambiguous(its_event)}"' if its_event else ""
                raise CannotFinish(
                    f'payment "{unambiguous(payment_id)}": nothing is on record about it in the database '
                    f"{database.where}{hint}"
                )
        if output_format is Format.JSON:
            typer.echo(reports.to_json(payment))
        else:
            reports.print_payment(_screen(), payment)


@app.command(epilog=_examples("payproc review", "payproc review --reason repeated_refund --limit 10"))
def review(
    output_format: FormatOption = Format.TABLE,
    reason: Annotated[
        Reason | None,
        typer.Option(
            metavar="REASON", case_sensitive=False, help="Only events with this reason, as predecessor_missing."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Only the N oldest.")] = None,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List the events that wait for a person, the oldest first.

    As JSON, one object a line.
    """
    with _reporting_errors():
        from datetime import datetime, timezone

        from payproc.cli import render as reports
        from payproc.db import location as db
        from payproc.db import schema
        from payproc.review import open_reviews

        if reason is not None and OUTCOME_OF[reason] is not Outcome.MANUAL_REVIEW:
            waiting = ", ".join(each.value for each in Reason if OUTCOME_OF[each] is Outcome.MANUAL_REVIEW)
            raise WrongUsage(f"--reason: {reason.value} never waits for a person, expected one of {waiting}")
        with db.open_database(database_url, _notifier(quiet)) as database:
            schema.require_schema(database)
            reviews = open_reviews(database, reason, limit)
            if output_format is Format.JSON:
                for each in reviews:
                    typer.echo(reports.to_json_line(each))
            elif not reports.print_reviews(_screen(), reviews, datetime.now(timezone.utc)):
                typer.echo("nothing waits for a person" + (f" with the reason {reason.value}" if reason else ""))


@app.command(
    epilog=_examples(
        'payproc resolve evt_4004 --dismiss --note "never left the bank"',
        'payproc resolve evt_4005 --apply --note "a sale" --expect refunded --yes',
    )
)
def resolve(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="As review lists it.", show_default=False)],
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the decision.", show_default=False)],
    apply: Annotated[bool, typer.Option("--apply", help="Move the payment to the state that the event names.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Leave the payment as it is.")] = False,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides; your login name unless told.", show_default=False)
    ] = None,
    expect: Annotated[
        State | None,
        typer.Option(metavar="STATE", case_sensitive=False, help="Refuse unless this is the payment's state."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")] = False,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Record a person's decision about an event that waits for one.

    On a terminal it shows the payment's state now and what the decision does, and asks.
    """
    with _reporting_errors():
        from payproc.cli import render as reports
        from payproc.db import location as db
        from payproc.db import schema
        from payproc.review import Review, ReviewDecision
        from payproc.review import resolve as record

        if apply == dismiss:
            raise WrongUsage("say what you decide: either --apply or --dismiss")
        verdict = ReviewDecision(
            Resolution.APPLY if apply else Resolution.DISMISS,
            _text("--note", note),
            _text("--by", _login() if by is None else by),
            expect,
        )
        for name, value in (("EVENT_ID", event_id), ("--note", verdict.note), ("--by", verdict.by)):
            _refuse_undecodable(name, value)
        if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise WrongUsage("there is no terminal to ask on: add --yes, and --expect STATE to be on the safe side")

        def confirm(found: Review, _: State) -> bool:
            if yes:
                return True
            typer.echo(reports.describe_review(found), err=True)
            return typer.confirm(reports.describe_effect(found, verdict, done=False) + "?", err=True)

        with db.open_database(database_url, _notifier(quiet)) as database:
            schema.prepare_schema(database, _say, create=False)
            resolved = record(database, event_id, verdict, confirm)
            if resolved is None:
                raise CannotFinish("nothing was changed")
            found, position = resolved
            effect = reports.describe_effect(found, verdict, done=True)
            typer.echo(f"{effect} (entry {position}, by {unambiguous(verdict.by)})")


@app.command(epilog=_examples("payproc verify"))
def verify(output_format: FormatOption = Format.TABLE, quiet: Quiet = False, database_url: DatabaseUrl = None) -> None:
    """Check every payment's history against what is stored.

    Exits with 3 if anything does not add up, or if a decision would come out differently by today's rules.
    """
    with _reporting_errors():
        from payproc.cli import render as reports
        from payproc.db import location as db
        from payproc.db import schema
        from payproc.verify import VerifySummary, count_entries
        from payproc.verify import verify as fold

        totals = VerifySummary()
        with db.open_database(database_url, _notifier(quiet)) as database:
            schema.require_schema(database)
            show_progress = not quiet and sys.stderr.isatty()
            total = count_entries(database) if show_progress else None
            with _progress_bar(total, "entries", show_progress) as on_progress:
                findings = fold(database, totals, on_progress)
                if output_format is Format.JSON:
                    for part in reports.verify_json(findings, totals):
                        typer.echo(part, nl=False)
                else:
                    for finding in findings:
                        typer.echo(reports.finding_line(finding))
        if output_format is Format.TABLE:
            for line in reports.verify_lines(totals):
                typer.echo(line)
    raise typer.Exit(DONE_WITH_FINDINGS if any(totals.problems.values()) else 0)


@app.command(epilog=_examples("payproc rules", "payproc rules --format mermaid"))
def rules(
    output_format: Annotated[
        RulesFormat, typer.Option("--format", case_sensitive=False, help="For a person, a script or a page.")
    ] = RulesFormat.TABLE,
) -> None:
    """Print the decision table, as the code has it."""
    with _reporting_errors():
        from payproc.cli import render as reports

        if output_format is RulesFormat.TABLE:
            reports.print_rules(_screen())
        elif output_format is RulesFormat.JSON:
            typer.echo(reports.rules_json())
        elif output_format is RulesFormat.MARKDOWN:
            typer.echo(reports.rules_markdown())
        else:
            typer.echo(reports.rules_mermaid())


@app.command(epilog=_examples("payproc runs --limit 5"))
def runs(
    output_format: FormatOption = Format.TABLE,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=MAX_LIMIT, help="Only the N newest.")] = 20,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List past ingests, the newest first.

    One that is not finished was interrupted, crashed, or is still running. As JSON, one object a line.
    """
    with _reporting_errors():
        from payproc.cli import render as reports
        from payproc.db import location as db
        from payproc.db import schema
        from payproc.runs import list_runs

        with db.open_database(database_url, _notifier(quiet)) as database:
            schema.require_schema(database)
            found = list_runs(database, limit)
            if output_format is Format.JSON:
                for run in found:
                    typer.echo(reports.to_json_line(run))
            else:
                reports.print_runs(_screen(), found)


@app.command(
    epilog=_examples(
        "payproc export > events.jsonl",
        'payproc export | payproc ingest --database-url "$COPY_URL" -',
    )
)
def export(quiet: Quiet = False, database_url: DatabaseUrl = None) -> None:
    """Write every recorded event to stdout, one a line, as it was received.

    An empty database that ingests the lines has the same payments and histories, and the same conflicts. What people
    decided is left out: stderr says how much that is, and what a copy will lack.

    Exits with 3 if a recorded line no longer says what is on record; such a line is left out and named.
    """
    with _reporting_errors():
        from payproc.cli import render as reports
        from payproc.db import location as db
        from payproc.db import schema
        from payproc.export import ExportSummary, count_lines
        from payproc.export import export as read

        totals = ExportSummary()
        faults = ProblemLog()
        is_terminal = sys.stdout.isatty()
        # In a pipe, whoever reads it may draw a bar of its own on the same terminal.
        show_progress = not quiet and sys.stderr.isatty() and _identity(sys.stdout.fileno()) is not None
        with db.open_database(database_url, _notifier(quiet)) as database:
            schema.require_schema(database)
            total = count_lines(database) if show_progress else None
            blocks = read(database, totals, lambda left_out: faults.add(reports.left_out_line(left_out)))
            with contextlib.closing(blocks), _progress_bar(total, "lines", show_progress) as on_progress:
                for block in blocks:
                    _write_whole(printable_json(block.decode()).encode() if is_terminal else block)
                    on_progress(totals.lines)
        faults.end("record")
        for line in reports.export_lines(totals, quiet=quiet):
            _say(line)
    raise typer.Exit(DONE_WITH_FINDINGS if totals.left_out else 0)


@app.command(epilog=_examples("payproc init --database-url postgresql://alice@db.example/payments"))
def init(
    citus: Annotated[
        bool, typer.Option("--citus", help="Distribute its tables over the machines of a Citus cluster.")
    ] = False,
    show_sql: Annotated[
        bool, typer.Option("--sql", help="Print the statements instead of running them, for psql -f.")
    ] = False,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Create payproc's schema, or bring it up to date.

    Ingest creates a missing schema itself, for one server. It brings up to date only that of the embedded database.
    """
    with _reporting_errors():
        from payproc.db import location as db
        from payproc.db import schema

        with db.open_database(database_url, _notifier(quiet)) as database:
            if show_sql:
                steps = list(schema.script(database, for_citus=citus))
                typer.echo("\n\n".join(steps or ["-- the schema payproc is up to date"]))
                return
            for summary in schema.bring_up(database, for_citus=citus) or ["the schema payproc is up to date"]:
                if not quiet:
                    typer.echo(summary)


# ---- What the commands share ---------------------------------------------------------------------


def _say(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    for before, argument in itertools.pairwise(sys.argv):
        if before == "--database-url" or argument.startswith("--database-url="):
            continue  # which db.py sees to
        for given in (argument, argument.partition("=")[2]):
            if _PASSWORD.search(given):  # a URL where something else is expected, such as a file
                message = message.replace(given, _HIDDEN).replace(unambiguous(given), _HIDDEN)
    typer.echo(f"payproc: {printable(message)}", err=True)


_PASSWORD = re.compile(
    r"postgres\w*(\+\w+)?://|://([^@]*(:|%3A).*(@|%40)|.*\?)|password\s*=", re.IGNORECASE | re.DOTALL
)
"""What may hold a password: a URL of a database, with one, or with parameters, or a list of parameters."""

_HIDDEN = "an argument that may hold a password"


def _notifier(quiet: bool) -> "Note":
    def note(line: str, *, always: bool = False) -> None:
        if always or not quiet:
            _say(line)

    return note


@contextlib.contextmanager
def _reporting_errors() -> Iterator[None]:
    """Turn what went wrong into one line and an exit code. No traceback reaches a user."""
    try:
        interrupt.install()
        with interrupt.raised():
            yield
            sys.stdout.flush()
        interrupt.check()
    except PayprocError as error:
        if interrupt.signal is not None:  # a wait that was cut short looks like an error of the database
            _end_interrupted()
        _say(str(error))
        try:
            sys.stdout.flush()
        except OSError:  # which may be what the error is about
            _abandon_stdout()
        raise typer.Exit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):  # the latter for Ctrl-C and Ctrl-D at a question
        _end_interrupted()
    except BrokenPipeError:
        _abandon_stdout()
        raise typer.Exit(BROKEN_PIPE) from None
    except OSError as error:
        _abandon_stdout()
        _say(f"{error.filename or 'output could not be written'}: {error.strerror}")
        raise typer.Exit(1) from None
    except typer.Exit:
        raise
    except Exception as error:
        if _is_about_limits(error):
            _say(f"this session's limits are too low: {error}; see ulimit -a")
            raise typer.Exit(1) from None
        if os.environ.get("PAYPROC_DEBUG"):
            raise
        _say(f"this is a fault in payproc: {type(error).__name__}: {error} (PAYPROC_DEBUG=1 shows where)")
        raise typer.Exit(1) from None


def _is_about_limits(error: Exception) -> bool:
    """Return whether a thread could not be started, or no memory was to be had."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))


def _end_interrupted() -> NoReturn:
    _say("interrupted")
    raise typer.Exit(128 + (interrupt.signal or signal.SIGINT)) from None


def _write_whole(block: bytes) -> None:
    """Write whole lines to stdout. A signal that arrives meanwhile interrupts the command when they are out."""
    with interrupt.noted():
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    interrupt.check()


def _abandon_stdout() -> None:
    """Nobody reads stdout any more; without this, flushing it at exit would complain once more."""
    with contextlib.suppress(OSError):  # no descriptor may be left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _screen(*, stderr: bool = False) -> "Screen":
    from payproc.cli.console import Screen

    return Screen(sys.stderr if stderr else sys.stdout)


def _text(name: str, value: str) -> str:
    """A text that somebody will read later. Raises WrongUsage if there is nothing to read, or only an option."""
    _refuse_option(name, value)
    if not value.strip():
        raise WrongUsage(f"{name}: is empty, expected some text")
    return value.strip()


def _refuse_option(name: str, value: str) -> None:
    """Raise WrongUsage for `--note --yes`, which Typer takes for the note `--yes`."""
    from payproc.cli.usage import command_of, option_names

    meant, _, _ = value.partition("=")
    if meant in option_names(command_of(sys.argv[1:], typer.main.get_command(app))):
        raise WrongUsage(f"{name}: needs a value, but the option {meant} follows it")


def _login() -> str:
    """The name behind this process's user, which the environment cannot change."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _refuse_undecodable(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongUsage(f"{name}: is not UTF-8, expected UTF-8 text") from None


# ---- Ingest: what comes from where and goes where ------------------------------------------------


def _sources(files: list[str] | None) -> list[str]:
    from payproc.ingest.sources import check_sources

    if not files and sys.stdin.isatty():
        raise WrongUsage("nothing to ingest: name a file, or pipe events in (- reads what you type)")
    names = files or ["-"]
    check_sources(names)
    return names


def _open_outputs(
    stack: contextlib.ExitStack, names: Sequence[str], decisions: str | None, malformed: str | None
) -> tuple[IO[bytes] | None, IO[bytes] | None]:
    """Open what is to be written, but nothing that is also read, and not the same twice; empty nothing yet."""
    inputs = {_identity(0 if name == "-" else name) for name in names} - {None}
    seen: dict[object, str] = {}
    files = []
    for option, name in (("--decisions", decisions), ("--malformed", malformed)):
        file = _open_output(stack, option, name) if name is not None else None
        files.append(file)
        if file is None or name is None:
            continue
        identity = _identity(file.fileno()) or name
        if identity in inputs:
            raise WrongUsage(f"{option}: {name} is also an input, and would be overwritten; name another file")
        if identity in seen:
            raise WrongUsage(f"{seen[identity]} and {option} both name {name}; name two files")
        seen[identity] = option
    return files[0], files[1]


def _open_output(stack: contextlib.ExitStack, option: str, name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdout.buffer
    _refuse_option(option, name)
    if not name:
        raise WrongUsage(f"{option}: is empty, expected the name of a file, or - for stdout")
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return stack.enter_context(_closing(open(descriptor, "wb")))  # noqa: PTH123 - a descriptor, not a path
    except OSError as error:
        raise WrongUsage(f"{option}: {name} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _closing(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Close a file in the end. What an error on the way has left unwritten fails once more then, and is not news."""
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        raise
    file.close()


def _identity(file: int | str) -> tuple[int, int] | None:
    """What makes two names the same regular file; None for pipes, terminals and what cannot be looked at."""
    try:
        status = os.stat(file)  # noqa: PTH116 - a descriptor or a path
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _empty(outputs: Sequence[IO[bytes] | None]) -> None:
    """Drop what was in the files that are to be written, once nothing stands in the way any more."""
    for file in outputs:
        if file is not None and file is not sys.stdout.buffer and _identity(file.fileno()):
            file.truncate(0)


@contextlib.contextmanager
def _progress_bar(total: int | None, unit: str, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for as long as something goes on; gives what tells it how far that is."""
    if not is_shown:
        yield lambda _: None
        return
    from rich import progress as bars
    from rich.console import Console

    # What is printed meanwhile goes through it, as it is.
    width = _screen(stderr=True).width
    console = Console(stderr=True, width=width, highlight=False, markup=False, emoji=False)
    amount = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    columns = (bars.BarColumn(), bars.TaskProgressColumn(), amount, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda completed: progress.update(task, completed=completed)


class ProblemLog:
    """Lists what is wrong in what is read on stderr, the first of it; counts the rest."""

    def __init__(self) -> None:
        from payproc.schemas import EXPECTED_LINE

        self._count = 0
        self._not_objects = 0
        self._not_an_object = f"expected {EXPECTED_LINE}"

    @property
    def is_no_object(self) -> bool:
        """Whether something is wrong, and each time it is that a line is no JSON object."""
        return 0 < self._count == self._not_objects

    def add(self, message: str) -> None:
        """List a fault, unless enough are listed."""
        self._count += 1
        self._not_objects += message.endswith(self._not_an_object)
        if self._count <= MAX_PROBLEMS_SHOWN:
            print(printable(message), file=sys.stderr)  # not typer.echo: this way it stays clear of the progress bar

    def end(self, what: str, advice: str = "") -> None:
        """Say how many more there were, and of what."""
        more = self._count - MAX_PROBLEMS_SHOWN
        if more > 0:
            typer.echo(f"… and {more:,} more {what}{'s' if more > 1 else ''}{advice}", err=True)


def _total_bytes(names: Sequence[str]) -> int | None:
    """Bytes to read, if that can be known: a pipe does not tell."""
    if any(name == "-" or not Path(name).is_file() for name in names):
        return None
    return sum(Path(name).stat().st_size for name in names)


def _print_summary(
    summary: "Summary", is_whole: bool, output_format: Format, stdout_is_taken: bool, quiet: bool
) -> None:
    from payproc.cli import render as reports

    if output_format is Format.JSON:
        typer.echo(reports.to_json(summary), err=stdout_is_taken)
    elif not quiet:
        reports.print_summary(_screen(stderr=stdout_is_taken), summary, is_whole)


def _print_waiting(count: int, output_format: Format, stdout_is_taken: bool) -> None:
    from payproc.cli.render import waiting_line

    if count:
        typer.echo(waiting_line(count), err=stdout_is_taken or output_format is Format.JSON)


def _exit_code(summary: "Summary", stopped_by: int | None, fail_on: Sequence[Outcome]) -> int:
    if stopped_by is not None:
        _say("interrupted; what was reported is recorded, and running the same command again is safe")
        return 128 + stopped_by
    counts = {outcome: summary.outcomes[outcome] for outcome in dict.fromkeys(fail_on)}
    if Outcome.REJECT in counts:
        counts[Outcome.REJECT] -= summary.known_conflicts  # so that a replay of a clean day stays clean
    found = [outcome for outcome, count in counts.items() if count]
    for outcome in found:
        _say(f"--fail-on {outcome.value}: {counts[outcome]:,} came out so")
    return DONE_WITH_FINDINGS if found or summary.malformed else 0
