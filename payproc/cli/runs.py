"""`payproc runs`: the past ingests."""

from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import open_screen
from payproc.cli.database import open_database
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import (
    DatabaseUrl,
    ListingFormat,
    ListingFormatOption,
    Quiet,
    format_examples,
    make_number_parser,
)
from payproc.cli.place import Place
from payproc.cli.render import format_time, to_json_line
from payproc.cli.table import Cell, Column, Line, Row, Styled
from payproc.escape import shorten, unambiguous

if TYPE_CHECKING:
    from payproc.runs import Run

EXAMPLES = format_examples("payproc runs --limit 5")

MAX_SOURCES_SHOWN = 4
"""Sources of a run that the table names, because some runs take a folder of thousands of files."""

_COLUMNS = (
    Column("Run", is_number=True),
    Column("Started (UTC)\nLasted"),
    Column("Events\nMalformed", is_number=True),
    Column("Outcomes"),
    Column("Source"),
)


def runs(
    output_format: ListingFormatOption = ListingFormat.TABLE,
    limit: Annotated[int, typer.Option(metavar="N", parser=make_number_parser(), help="Only the N newest.")] = 20,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """List past ingests, the newest first.

    One that is not finished was interrupted, crashed, or is still running. As JSON, one object a
    line; as CSV, the same fields.
    """
    with exit_on_errors():
        from payproc.cli.listings import print_listing  # late
        from payproc.runs import Run, list_runs

        with open_database(database_url, quiet=quiet) as database:
            found = list_runs(database, limit)
            if output_format is not ListingFormat.TABLE:
                print_listing(map(to_json_line, found), [Run], output_format)
            else:
                open_screen().print_table(_COLUMNS, map(_make_row, found), empty="no runs")


def _make_row(run: "Run") -> Row:
    ended = run.finished_at or run.active_at
    lasted = f"{(ended - run.started_at).total_seconds():.2f} s"
    state = "finished" if run.finished_at else "not finished"
    outcomes: list[Line] = [f"{outcome.value} {count:,}" for outcome, count in run.outcomes.items() if count]
    sources: list[Line] = [Place("", unambiguous(source)) for source in run.source[:MAX_SOURCES_SHOWN]]
    if (more := len(run.source) - MAX_SOURCES_SHOWN) > 0:
        sources.append(f"… and {more:,} more")
    if run.label:
        sources.insert(0, Styled(f"label: {shorten(run.label)}", "bold"))
    times: Cell = [format_time(run.started_at), f"{lasted}, {state}"]
    return str(run.run_id), times, [f"{run.events:,}", f"{run.malformed:,}"], outcomes or "none", sources
