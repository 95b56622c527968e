"""The console script: registers the commands, runs one, and exits with its code.

Belongs here: the application as a whole. No command does its work here, and no command imports
this module.
"""

from payproc.signals import let_signals_kill

let_signals_kill()

import gc

gc.disable()  # imports create no garbage cycles

import atexit
import sys
from typing import Annotated

import typer

from payproc.cli import (
    correct,
    exec,
    export,
    history,
    ingest,
    init,
    payments,
    resolve,
    review,
    rules,
    runs,
    show,
    status,
    verify,
)
from payproc.cli.console import print_message
from payproc.cli.exits import BROKEN_PIPE, abandon_stdout, get_interrupt_code, repair_streams
from payproc.cli.options import format_examples
from payproc.cli.usage import UsageError, describe_usage_error
from payproc.errors import WrongUsage

gc.freeze()  # keep imported objects out of every collection
gc.enable()
atexit.register(gc.freeze)

app = typer.Typer(
    name="payproc",
    help="Process payment events from JSON Lines: apply the safe, refuse the impossible, leave the rest to a person.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=ingest.EXAMPLES)(ingest.ingest)
app.command(epilog=show.EXAMPLES)(show.show)
app.command(epilog=review.EXAMPLES)(review.review)
app.command(epilog=resolve.EXAMPLES)(resolve.resolve)
app.command(epilog=correct.EXAMPLES)(correct.correct)
app.command(epilog=payments.EXAMPLES)(payments.payments)
app.command(epilog=history.EXAMPLES)(history.history)
app.command(epilog=status.EXAMPLES)(status.status)
app.command(epilog=verify.EXAMPLES)(verify.verify)
app.command(epilog=rules.EXAMPLES)(rules.rules)
app.command(epilog=runs.EXAMPLES)(runs.runs)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=init.EXAMPLES)(init.init)
app.command("exec", epilog=exec.EXAMPLES, context_settings={"allow_interspersed_args": False})(exec.execute)


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    repair_streams()
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        if sys.argv[1:]:
            print_message(describe_usage_error(error, sys.argv[1:], typer.main.get_command(app)))
        else:
            typer.echo(error.ctx.get_help(), err=True)
        raise SystemExit(WrongUsage.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):  # a signal between two steps of entering a command
        print_message("interrupted")
        raise SystemExit(get_interrupt_code()) from None
    except OSError as error:  # from --help or --version, outside exit_on_errors
        abandon_stdout()
        print_message(f"output could not be written: {error.strerror}")
        raise SystemExit(1) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer exits with 1 if --help meets a closed pipe
            raise SystemExit(BROKEN_PIPE) from None
        raise
    raise SystemExit(code)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version  # 12 ms of CPU, which only --version needs

        typer.echo(f"payproc {version('payproc')}")
        raise typer.Exit


@app.callback(epilog=format_examples("payproc ingest day.jsonl"))
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass
