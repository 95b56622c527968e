"""`payproc show`: one payment with its state, its history, its conflicts and its redeliveries."""

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from payproc.cli.console import Screen, open_screen
from payproc.cli.database import open_database
from payproc.cli.entries import SHOW_COLUMNS, SHOW_LAYOUTS, make_show_row
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import DatabaseUrl, Format, FormatOption, Quiet, format_examples, refuse_undecodable
from payproc.cli.render import format_count, format_origin, format_time, to_json
from payproc.cli.table import SAMPLE_ROWS, Column, Styled
from payproc.cli.wrap import join_parts
from payproc.errors import CannotFinish
from payproc.escape import cell_text, unambiguous

if TYPE_CHECKING:
    from payproc.payments import Conflict, HistoryEntry, Payment, Redelivery

EXAMPLES = format_examples("payproc show pay_coat")

_CONFLICT_HEADERS = ("Event", "Came as", "Recorded as", "Recorded (UTC)", "From")

_CONFLICT_LAYOUTS = ([[0], [1], [2], [3], [4]], [[0], [1], [2], [3, 4]], [[0, 1, 2], [3, 4]])

_REDELIVERY_LAYOUTS = ([[0], [1], [2], [3]], [[0, 1], [2, 3]])


def show(
    payment_id: Annotated[str, typer.Argument(metavar="PAYMENT_ID", help="As in the events.", show_default=False)],
    output_format: FormatOption = Format.TABLE,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Show one payment: state, history, reviews, conflicts."""
    with exit_on_errors():
        from payproc import payments  # late

        refuse_undecodable("PAYMENT_ID", payment_id)
        with open_database(database_url, quiet=quiet) as database:
            with database.snapshot() as connection, connection.cursor() as cursor:
                payment = payments.load_payment(database, cursor, payment_id)
                its_event = None if payment else payments.find_payment_id(database, cursor, payment_id)
            if payment is None:
                hint = f'; it is an event_id of payment "{unambiguous(its_event)}"' if its_event else ""
                raise CannotFinish(
                    f'payment "{unambiguous(payment_id)}": not found in the database {database.where}{hint}'
                )
        if output_format is not Format.TABLE:
            typer.echo(to_json(payment, output_format))
        else:
            _print_payment(open_screen(), payment)


def _print_payment(screen: Screen, payment: "Payment") -> None:
    name, state = (
        screen.paint(Styled(text, "bold")) for text in (unambiguous(payment.payment_id), payment.state.value)
    )
    screen.print([f"payment {name} is {state} · {format_count(len(payment.history), 'entry', 'entries')}"])
    if payment.history:
        _print_history(screen, payment.history)
    if payment.open_reviews:
        first, *others = (unambiguous(entry.event_id) for entry in payment.open_reviews)
        lines = join_parts([f"pending reviews: {first}", *others], ", ", screen.width)
        screen.print(screen.paint(Styled(line, "yellow")) for line in lines)
    screen.print(_describe_dead_ends(screen, payment))
    if payment.conflicts:
        screen.print(["", "conflicts: other events under an event_id that was already used", ""])
        _print_conflicts(screen, payment.conflicts)
    if payment.redeliveries:
        screen.print(["", "redelivered with other content", ""])
        _print_redeliveries(screen, payment.redeliveries)


def _describe_dead_ends(screen: Screen, payment: "Payment") -> list[str]:
    """Return the number of rejected events, and the command to correct the payment."""
    lines = []
    if payment.rejected:
        count = format_count(len(payment.rejected), "event was", "events were")
        lines.append(screen.paint(Styled(f"{count} rejected", "red")))
    if payment.is_correctable:
        lines.append(f"if the state is wrong: payproc correct {_quote(payment.payment_id)} --to STATE --note TEXT")
    return lines


def _quote(payment_id: str) -> str:
    """Return a payment_id as a shell takes it, or PAYMENT_ID if a person could not copy it."""
    is_plain = payment_id == unambiguous(payment_id) and not payment_id.startswith("-")
    return shlex.quote(payment_id) if is_plain else "PAYMENT_ID"


def _print_history(screen: Screen, history: "Sequence[HistoryEntry]") -> None:
    """Print a row for each entry."""
    # Positions and line numbers grow towards the end.
    measured = [*history[:SAMPLE_ROWS], *history[SAMPLE_ROWS:][-SAMPLE_ROWS:]]
    screen.print_table(
        SHOW_COLUMNS,
        map(make_show_row, history),
        measured=map(make_show_row, measured),
        layouts=screen.choose_layouts(SHOW_LAYOUTS),
    )


def _print_conflicts(screen: Screen, conflicts: "Iterable[Conflict]") -> None:
    rows = (
        (
            cell_text(conflict.event_id),
            f"{conflict.type.value} of {cell_text(conflict.payment_id)}",
            f"{conflict.recorded.type.value} of {cell_text(conflict.recorded.payment_id)}",
            format_time(conflict.recorded_at),
            format_origin(conflict),
        )
        for conflict in conflicts
    )
    columns = [Column(header, is_id=number < 3) for number, header in enumerate(_CONFLICT_HEADERS)]
    screen.print_table(columns, rows, layouts=_CONFLICT_LAYOUTS)


def _print_redeliveries(screen: Screen, redeliveries: "Iterable[Redelivery]") -> None:
    rows = (
        (cell_text(each.event_id), each.type.value, format_time(each.recorded_at), format_origin(each))
        for each in redeliveries
    )
    columns = [Column("Event", is_id=True), Column("Type"), Column("Recorded (UTC)"), Column("From")]
    screen.print_table(columns, rows, layouts=_REDELIVERY_LAYOUTS)
