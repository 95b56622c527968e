"""`payproc resolve`: record a person's decisions about events that need review.

Belongs here: the options, and a decision about one event. Many at once are in bulk.py.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from payproc.cli.console import confirm
from payproc.cli.database import open_database
from payproc.cli.exits import exit_on_errors
from payproc.cli.files import open_outputs
from payproc.cli.filters import (
    LegalFilter,
    LimitFilter,
    PaymentFilter,
    ReasonFilter,
    RunFilter,
    StateFilter,
    TypeFilter,
    make_filter,
)
from payproc.cli.options import (
    DatabaseUrl,
    Format,
    FormatOption,
    Quiet,
    format_examples,
    refuse_option,
    refuse_undecodable,
)
from payproc.cli.people import (
    By,
    Expect,
    OptionalNote,
    Yes,
    check_author,
    check_note,
    describe_move,
    print_recorded,
    require_consent,
)
from payproc.cli.render import DONE, MEANING
from payproc.errors import CannotFinish, WrongUsage
from payproc.escape import printable_json, unambiguous
from payproc.logic import Resolution, State

if TYPE_CHECKING:
    from payproc.db.connection import Database
    from payproc.review import Review, ReviewDecision

EXAMPLES = format_examples(
    'payproc resolve evt_4004 --dismiss --note "never left the bank"',
    'payproc resolve evt_4005 --apply --note "a sale" --expect refunded --yes',
    'payproc resolve --all --legal-now --apply --note "late, now in order" --yes',
    "payproc resolve --from decisions.jsonl --decisions results.jsonl",
)


def resolve(
    context: typer.Context,
    event_id: Annotated[
        str | None, typer.Argument(metavar="EVENT_ID", help="As listed by review.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Decide all events that the filters pick.")] = False,
    file: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="Take decisions as JSON, one a line; - for stdin.")
    ] = None,
    note: OptionalNote = None,
    apply: Annotated[bool, typer.Option("--apply", help="Move the payment to the state that the event names.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Leave the payment as it is.")] = False,
    by: By = None,
    expect: Expect = None,
    reason: ReasonFilter = None,
    event_type: TypeFilter = None,
    state: StateFilter = None,
    payment: PaymentFilter = None,
    run: RunFilter = None,
    legal_now: LegalFilter = False,
    limit: LimitFilter = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --all: print the counts and write nothing.")] = False,
    decisions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --all or --from: write each result as JSON; - for stdout."),
    ] = None,
    output_format: FormatOption = Format.TABLE,
    yes: Yes = False,
    quiet: Quiet = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Record decisions of a person about events that need review.

    One event, all that filters pick, or those of a file. On a terminal the first two show the
    effect and ask. Exits with 3 if --all or --from could not record every decision.
    """
    with exit_on_errors():
        from payproc.cli import bulk  # late
        from payproc.orders import Defaults
        from payproc.review import ReviewDecision

        _check_usage(context)
        resolution = Resolution.APPLY if apply else Resolution.DISMISS if dismiss else None
        note = note if note is None else check_note(context, note)
        by = check_author(context, by)
        filters = make_filter(context, reason, event_type, payment, run, state, legal_now)
        if file is None:
            require_consent(yes=yes or dry_run, advice="or --dry-run" if every else "and --expect STATE")
        report = bulk.BulkReport(output_format, decisions, dry_run, quiet)
        code = 0
        with (
            open_outputs([] if file is None else [file], decisions, None) as outputs,
            open_database(database_url, quiet=quiet, is_written=not dry_run) as database,
        ):
            if file is not None:
                code = bulk.resolve_file(database, file, Defaults(resolution, note, by, expect), report, outputs)
            elif resolution is not None and note is not None:  # both are, after _check_usage
                decision = ReviewDecision(resolution, note, by, expect)
                if event_id is not None:
                    _resolve_one(database, event_id, decision, yes=yes)
                else:
                    code = bulk.resolve_all(database, filters, limit, decision, report, outputs, yes=yes)
    raise typer.Exit(code)


_OF_ALL = ("reason", "event_type", "state", "payment", "run", "legal_now", "limit", "dry_run")
"""Parameters that need --all."""


def _check_usage(context: typer.Context) -> None:
    """Raise WrongUsage for options that are missing or do not fit each other."""
    given = {name: value for name, value in context.params.items() if value not in (None, False)}
    _check_inputs(context, given)
    event_id, file = given.get("event_id"), given.get("file")
    if "apply" in given and "dismiss" in given:
        raise WrongUsage("--apply and --dismiss: given together, expected one of them")
    if not {"file", "apply", "dismiss"} & given.keys():
        raise WrongUsage("no decision, expected --apply or --dismiss")
    if file is None and "note" not in given:
        raise WrongUsage("--note: missing, expected some text")
    if event_id is not None:
        refuse_undecodable("EVENT_ID", event_id)
    refuse_option(context, "--decisions", given.get("decisions"))
    if file is not None:
        from payproc.cli.bulk import check_file  # late

        check_file(context, file)


def _check_inputs(context: typer.Context, given: Mapping[str, Any]) -> None:
    """Raise WrongUsage unless one of EVENT_ID, --all and --from is given, with fitting options."""
    inputs = [
        text for name, text in (("event_id", "EVENT_ID"), ("every", "--all"), ("file", "--from")) if name in given
    ]
    if not inputs:
        raise WrongUsage("no event, expected EVENT_ID, --all or --from FILE; see payproc resolve --help")
    if inputs[1:]:
        raise WrongUsage(f"{' and '.join(inputs)}: given together, expected one of EVENT_ID, --all and --from FILE")
    for parameter in context.command.params:
        if parameter.name in given and parameter.name in _OF_ALL and inputs != ["--all"]:
            raise WrongUsage(f"{parameter.opts[0]}: does not go with {inputs[0]}, expected --all")
    if inputs == ["--all"] and "expect" in given:
        raise WrongUsage("--expect: does not go with --all; use --state")
    if inputs == ["EVENT_ID"]:
        if "decisions" in given:
            raise WrongUsage("--decisions: does not go with EVENT_ID, expected --all or --from")
        if given["output_format"] != Format.TABLE:
            raise WrongUsage("--format: does not go with EVENT_ID, expected --all or --from")


def _resolve_one(database: "Database", event_id: str, decision: "ReviewDecision", *, yes: bool) -> None:
    """Record a decision about one event, and print its effect."""
    from payproc.review import resolve_review  # late

    def approve(found: "Review", _: State) -> bool:
        return yes or _ask(found, decision)

    resolved = resolve_review(database, event_id, decision, approve)
    if resolved is None:
        raise CannotFinish("nothing was changed")
    found, position = resolved
    effect = _describe_effect(found, decision, is_done=True)
    print_recorded(f"{effect} (entry {position}, by {unambiguous(decision.by)})")


def _ask(review: "Review", decision: "ReviewDecision") -> bool:
    typer.echo(_describe_review(review), err=True)
    return confirm(_describe_effect(review, decision, is_done=False) + "?")


def _describe_review(review: "Review") -> str:
    """Return the event and its payment in four lines."""
    then = review.state_when_flagged
    moved = "" if review.state is then else f", {then.value} when the event arrived"
    return "\n".join(
        (
            f"{review.type.value} of payment {unambiguous(review.payment_id)}, event {unambiguous(review.event_id)}",
            f"needs review because {MEANING[review.reason]} ({review.reason.value})",
            f"the payment is {review.state.value} now{moved}",
            f"received: {printable_json(bytes(review.payload).decode())}",
        )
    )


def _describe_effect(review: "Review", decision: "ReviewDecision", *, is_done: bool) -> str:
    """Return the effect of a decision on the payment, before or after it."""
    verb = DONE[decision.resolution] if is_done else decision.resolution.value
    effect = describe_move(review.payment_id, review.state, decision.state_after(review), is_done=is_done)
    return f"{verb} {unambiguous(review.event_id)}: {effect}"
