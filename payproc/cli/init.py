"""`payproc init`: create the schema, or bring it up to date."""

from typing import Annotated

import typer

from payproc.cli.console import make_notifier
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import DatabaseUrl, Quiet, check_text, format_examples
from payproc.escape import unambiguous

EXAMPLES = format_examples("payproc init --database-url postgresql://alice@db.example/payments")

_UP_TO_DATE = "the schema payproc is up to date"


def init(
    context: typer.Context,
    citus: Annotated[
        bool | None,
        typer.Option(
            "--citus/--no-citus", help="Distribute its tables over a Citus cluster, or not.", show_default=False
        ),
    ] = None,
    show_sql: Annotated[
        bool, typer.Option("--sql", help="Print the statements instead of running them, for psql -f.")
    ] = False,
    reader: Annotated[
        str | None, typer.Option(metavar="ROLE", help="Let this role read the views report_…, and nothing else.")
    ] = None,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Create payproc's schema, or bring it up to date.

    Ingest creates a missing schema itself, for one server. It brings up to date only that of the
    embedded database.
    """
    with exit_on_errors():
        from payproc.db import location, schema  # late
        from payproc.db.views import grant_views, list_grants

        if reader is not None:
            check_text(context, "--reader", reader)
        with location.open_database(database_url, make_notifier(quiet)) as database:
            grants = [] if reader is None else list_grants(database, reader, for_citus=bool(citus))
            if show_sql:
                steps = list(schema.list_statements(database, for_citus=citus)) or [f"-- {_UP_TO_DATE}"]
                typer.echo("\n\n".join([*steps, *(f"{grant};" for grant in grants)]))
                return
            done = schema.bring_up(database, for_citus=citus) or [_UP_TO_DATE]
            if reader is not None:
                grant_views(database, reader, grants)
                done.append(f"{unambiguous(reader)} may read the views of the schema payproc")
            for summary in done:
                if not quiet:
                    typer.echo(summary)
