"""Tables and JSON for people and scripts.

What belongs here: how results look. Text from events is data: it goes through the functions of text.py, so that it
cannot drive a terminal.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from payproc.cli.console import Screen
from payproc.cli.table import GAP, SAMPLE_ROWS, Cell, Column, Line, Row, Styled
from payproc.escape import printable_json, unambiguous, unbroken
from payproc.logic import OUTCOME_OF, TABLE, Decision, EventType, Outcome, Reason, Resolution, State

if TYPE_CHECKING:  # reports show these, and need nothing that they need
    from payproc.export import ExportSummary, LeftOut
    from payproc.ingest.run import Summary
    from payproc.payments import Conflict, EventEntry, HistoryEntry, Payment
    from payproc.review import Review, ReviewDecision
    from payproc.runs import Run
    from payproc.verify import Finding, VerifySummary

WIDE = 130
"""Columns from which on a history fits in one line an entry."""

_STYLES = {
    Outcome.APPLY: "green",
    Outcome.IGNORE: "dim",
    Outcome.REJECT: "red",
    Outcome.MANUAL_REVIEW: "yellow",
}


MEANING = {
    Reason.EVENT_ID_CONFLICT: "its event_id is on record for something else",
    Reason.DUPLICATE_EVENT: "this very event is on record",
    Reason.TRANSITION: "a legal step",
    Reason.ALREADY_IN_STATE: "another event reported the same before",
    Reason.SUPERSEDED: "it comes late, the payment is past it",
    Reason.PAYMENT_FAILED: "the payment has failed",
    Reason.PREDECESSOR_MISSING: "the step before it has not been seen",
    Reason.FAILURE_AFTER_CAPTURE: "it reports a failure after money moved",
    Reason.CAPTURE_AFTER_REFUND: "it captures again after the refund",
    Reason.REPEATED_REFUND: "it refunds again: money out twice",
    Reason.AUTHORIZE_AFTER_FAILURE: "it authorizes after the failure",
    Reason.FLAGGED: "it reports something that only a person can judge",
}
"""Every reason in words that a person understands."""


def to_json(value: Any) -> str:
    """One JSON document; indented, because people look at it too."""
    return printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def to_json_line(value: Any) -> str:
    """One JSON document on one line."""
    return printable_json(msgspec.json.encode(value).decode())


def print_summary(screen: Screen, summary: "Summary", is_whole: bool) -> None:
    """What an ingest did: the four outcomes, malformed lines, time, and whether that is all of its input."""
    columns = (Column("Outcome"), Column("Events", is_number=True), Column("Share", is_number=True), Column("Reasons"))
    rows: list[Row] = []
    for outcome, count in summary.outcomes.items():
        share = f"{count / summary.events:.1%}" if summary.events else "–"
        reasons: list[Line] = [
            f"{reason.value} {reason_count:,}" + _known(summary, reason)
            for reason, reason_count in summary.reasons.items()
            if OUTCOME_OF[reason] is outcome
        ]
        rows.append((Styled(outcome.value, _STYLES[outcome]), f"{count:,}", share, reasons))
    screen.print_table(columns, rows)
    screen.print([_footer(summary, is_whole)])


def _known(summary: "Summary", reason: Reason) -> str:
    is_told = reason is Reason.EVENT_ID_CONFLICT and summary.known_conflicts
    return f" ({summary.known_conflicts:,} known)" if is_told else ""


def _footer(summary: "Summary", is_whole: bool) -> str:
    parts = [_counted(summary.events, "event")]
    if summary.malformed:
        parts.append(_counted(summary.malformed, "malformed line"))
    seconds = summary.elapsed_seconds
    rate = f" ({summary.events / seconds:,.0f} events/s)" if seconds and summary.events else ""
    parts.append(f"{seconds:.2f} s{rate}")
    parts.append("dry run: nothing was written" if summary.dry_run else f"run {summary.run_id}")
    if not is_whole:
        parts.append("not finished")
    return " · ".join(parts)


def print_payment(screen: Screen, payment: "Payment") -> None:
    """A payment's state, its history and its conflicts."""
    name, state = (
        screen.paint(Styled(text, "bold")) for text in (unambiguous(payment.payment_id), payment.state.value)
    )
    screen.print([f"payment {name} is {state} · {_counted(len(payment.history), 'entry', 'entries')}"])
    if payment.history:
        _print_history(screen, payment.history)
    if payment.open_reviews:
        waiting = ", ".join(unambiguous(entry.event_id) for entry in payment.open_reviews)
        screen.print([screen.paint(Styled(f"waiting for a person: {waiting}", "yellow"))])
    if payment.conflicts:
        screen.print(["", "conflicts: what came under an event_id that was already taken", ""])
        _print_conflicts(screen, payment.conflicts)


def _print_history(screen: Screen, history: "Sequence[HistoryEntry]") -> None:
    """One row an entry; on a narrow terminal, each row has two lines."""
    is_wide = screen.width >= WIDE
    if is_wide:
        headers = ["Event", "Type", "Outcome", "Reason", "Transition", "Recorded (UTC)", "From"]
    else:
        headers = ["Event\nType", "Outcome\nReason", "Transition", "Recorded (UTC)\nFrom"]
    columns = (Column("#", is_number=True), *map(Column, headers))
    row = _wide_entry if is_wide else _narrow_entry
    # Numbers of entries and lines get longer towards the end.
    measured = [*history[:SAMPLE_ROWS], *history[SAMPLE_ROWS:][-SAMPLE_ROWS:]]
    screen.print_table(columns, map(row, history), measured=map(row, measured))


def _wide_entry(entry: "HistoryEntry") -> Row:
    event, kind, outcome, reason, origin = _entry_cells(entry)
    transition = " ".join(_transition(entry))
    return str(entry.position), event, kind, outcome, reason, transition, _when(entry.recorded_at), origin


def _narrow_entry(entry: "HistoryEntry") -> Row:
    event, kind, outcome, reason, origin = _entry_cells(entry)
    transition: list[Line] = [*_transition(entry)]
    return str(entry.position), [event, kind], [outcome, reason], transition, [_when(entry.recorded_at), origin]


def _entry_cells(entry: "HistoryEntry") -> tuple[Line, Line, Line, Line, Line]:
    """Event, type, outcome, reason and origin; for a person's decision: what, by whom and why."""
    from payproc.payments import ResolutionEntry

    event = unbroken(entry.event_id)
    if isinstance(entry, ResolutionEntry):
        decided = Styled(_DONE[entry.resolution], "bold")
        return event, "resolution", decided, f"by {unambiguous(entry.resolved_by)}", unambiguous(entry.note)
    outcome = Styled(entry.outcome.value, _STYLES[entry.outcome])
    return event, entry.type.value, outcome, entry.reason.value, _origin(entry)


_DONE = {Resolution.APPLY: "applied", Resolution.DISMISS: "dismissed"}


# ---- The review queue -----------------------------------------------------------------------------


def print_reviews(screen: Screen, reviews: "Iterable[Review]", now: datetime) -> bool:
    """Print the queue; return whether there is anything in it."""
    iterator = iter(reviews)
    if (first := next(iterator, None)) is None:
        return False
    is_wide = screen.width >= WIDE
    rows = (_review_row(review, now, is_wide=is_wide) for review in chain((first,), iterator))
    screen.print_table(_review_columns(screen.width, is_wide=is_wide), rows)
    return True


def _review_columns(width: int, *, is_wide: bool) -> list[Column]:
    """Return columns whose width does not depend on what is in them: events and payments share what is left."""
    if is_wide:
        widths = {"Event": 0, "Payment": 0, "Now": 10, "Type": 9, "Why a person must look": 38, "Age": 6, "From": 24}
    else:
        widths = {"Event\nPayment": 0, "Type\nNow": 10, "Why a person must look": 22, "Age\nFrom": 19}
    left = width - sum(widths.values()) - len(GAP) * (len(widths) - 1)
    shared = max(left // sum(not fixed for fixed in widths.values()), 8)
    return [Column(header, fixed or shared) for header, fixed in widths.items()]


def _review_row(review: "Review", now: datetime, *, is_wide: bool) -> Row:
    event, payment = unbroken(review.event_id), unbroken(review.payment_id)
    kind, state = review.type.value, Styled(review.state.value, "bold")
    why, age, origin = MEANING[review.reason], _age(now - review.recorded_at), _origin(review)
    if is_wide:
        return event, payment, state, kind, why, age, origin
    return [event, payment], [kind, state], why, [age, origin]


def _age(age: timedelta) -> str:
    """An age in its largest unit: 12 s, 5 min, 3 h, 9 d."""
    seconds = max(int(age.total_seconds()), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def waiting_line(count: int) -> str:
    """How many events wait, and how to see them."""
    verb = "waits" if count == 1 else "wait"
    return f"{_counted(count, 'event')} {verb} for a person: payproc review"


def describe_review(review: "Review") -> str:
    """What a person is asked to decide about, in a few lines."""
    moved = "" if review.state is review.state_when_flagged else f", {review.state_when_flagged.value} when it came"
    return "\n".join(
        (
            f"{review.type.value} of payment {unambiguous(review.payment_id)}, event {unambiguous(review.event_id)}",
            f"waits because {MEANING[review.reason]} ({review.reason.value})",
            f"the payment is {review.state.value} now{moved}",
            f"received: {printable_json(bytes(review.payload).decode())}",
        )
    )


def describe_effect(review: "Review", verdict: "ReviewDecision", *, done: bool) -> str:
    """What a decision does, or did, to the payment."""
    after = verdict.state_after(review)
    word = {True: _DONE, False: {Resolution.APPLY: "apply", Resolution.DISMISS: "dismiss"}}[done][verdict.resolution]
    payment = unambiguous(review.payment_id)
    if after is review.state:
        effect = f"{payment} stays {after.value}"
    else:
        effect = f"{payment} {'went' if done else 'goes'} from {review.state.value} to {after.value}"
    return f"{word} {unambiguous(review.event_id)}: {effect}"


# ---- Runs -----------------------------------------------------------------------------------------


_SOURCES_SHOWN = 4
"""How many sources of a run a table names: some runs take a folder of thousands of files."""


def print_runs(screen: Screen, runs: "Iterable[Run]") -> None:
    """Past ingests, the newest first."""
    columns = (
        Column("Run", is_number=True), Column("Started (UTC)\nLasted"), Column("Events\nMalformed", is_number=True),
        Column("Outcomes"), Column("Source"),
    )  # fmt: skip
    screen.print_table(columns, map(_run_row, runs))


def _run_row(run: "Run") -> Row:
    ended = run.finished_at or run.active_at
    lasted = f"{(ended - run.started_at).total_seconds():.2f} s"
    state = "finished" if run.finished_at else "not finished"
    outcomes: list[Line] = [f"{outcome.value} {count:,}" for outcome, count in run.outcomes.items() if count]
    sources: list[Line] = [unambiguous(source) for source in run.source[:_SOURCES_SHOWN]]
    if more := len(run.source) - len(sources):
        sources.append(f"… and {more:,} more")
    times: Cell = [_when(run.started_at), f"{lasted}, {state}"]
    return str(run.run_id), times, [f"{run.events:,}", f"{run.malformed:,}"], outcomes or "none", sources


# ---- Verify ---------------------------------------------------------------------------------------


def finding_line(finding: "Finding") -> str:
    """One finding: where, what, found against expected."""
    entry = "" if finding.position is None else f" entry {finding.position}:"
    return (
        f"payment {unambiguous(finding.payment_id)}:{entry} {finding.problem.value}: "
        f"found {finding.found}, expected {finding.expected}"
    )


def verify_lines(totals: "VerifySummary") -> list[str]:
    """What a verify comes to."""
    changed = sum(totals.problems.values()) - totals.wrong
    books = "the books are right" if not totals.wrong else f"{_counted(totals.wrong, 'fault')} in the books"
    lines = [f"{_counted(totals.payments, 'payment')}, {_counted(totals.entries, 'entry', 'entries')}: {books}"]
    if changed:
        lines.append(
            f"{_counted(changed, 'recorded decision')} would come out differently by today's rules; "
            "the books are consistent with the rules of their time"
        )
    return lines


def verify_json(findings: "Iterable[Finding]", totals: "VerifySummary") -> "Iterator[str]":
    """One JSON object, a finding at a time, so that memory stays flat; the totals come last."""
    yield '{"findings": ['
    separator = "\n  "
    for finding in findings:
        yield separator + to_json_line(finding)
        separator = ",\n  "
    counts = {problem: count for problem, count in totals.problems.items() if count}
    rest = {"payments": totals.payments, "entries": totals.entries, "problems": counts, "wrong": totals.wrong}
    yield "],\n " + to_json_line(rest)[1:] + "\n"


# ---- Export ---------------------------------------------------------------------------------------


def left_out_line(left_out: "LeftOut") -> str:
    """What an export leaves out: which, and why."""
    return (
        f'{left_out.kind} "{unambiguous(left_out.event_id)}" of payment "{unambiguous(left_out.payment_id)}": '
        f"left out: {left_out.why}"
    )


def export_lines(totals: "ExportSummary", *, quiet: bool) -> list[str]:
    """What an export comes to; with `quiet`, only what a copy will not have."""
    lines = []
    if not quiet:
        lines.append(f"exported {_counted(totals.events, 'event')} and {_counted(totals.conflicts, 'conflict')}")
    if totals.left_out:
        lines.append(
            f"left out {_counted(totals.left_out, 'record')}: ingested again, they would not be what is on record; "
            "somebody has changed the tables by hand, or the database has another encoding than UTF8"
        )
    if resolutions := sum(totals.resolutions.values()):
        counts = ", ".join(f"{count:,} {_DONE[resolution]}" for resolution, count in totals.resolutions.items())
        waiting = "1 event waits" if totals.waiting == 1 else f"{totals.waiting:,} events wait"
        lines.append(
            f"left out {_counted(resolutions, 'resolution')} ({counts}): what people decided is not replayed; "
            f"in a copy {waiting} for a person"
        )
    if totals.changed_events or totals.changed_payments:
        events = f"{_counted(totals.changed_events, 'event')} come{'s' * (totals.changed_events == 1)} out differently"
        payments = (
            f"{_counted(totals.changed_payments, 'payment')} end{'s' * (totals.changed_payments == 1)} in another state"
        )
        lines.append(f"in a copy {events}, and {payments}")
    return lines


# ---- Rules ----------------------------------------------------------------------------------------


def print_rules(screen: Screen) -> None:
    """The decision table, one row a cell, and what comes before it."""
    rows: list[Row] = []
    for state, row in TABLE.items():
        rows += [()] * bool(rows)
        for event_type, decision in row.items():
            outcome = Styled(decision.outcome.value, _STYLES[decision.outcome])
            rows.append((state.value, event_type.value, outcome, decision.reason.value, decision.state_after.value))
    screen.print_table([*map(Column, ("State", "Event", "Outcome", "Reason", "Next state"))], rows)
    screen.print(["", "Before the state is looked at, in this order:"])
    screen.print(f"{OUTCOME_OF[reason].value} {reason.value}: {MEANING[reason]}" for reason in BY_IDENTITY)


BY_IDENTITY = (Reason.EVENT_ID_CONFLICT, Reason.DUPLICATE_EVENT)
"""Reasons that come before any state, in order of precedence."""


def rules_json() -> str:
    """The same for a script."""
    return to_json(
        {
            "before_the_state": [_reason_object(reason) for reason in BY_IDENTITY],
            "table": [
                {"state": state, "type": event_type, "outcome": decision.outcome, "reason": decision.reason,
                 "next_state": decision.state_after}
                for state, row in TABLE.items() for event_type, decision in row.items()
            ],
            "reasons": [_reason_object(reason) for reason in Reason],
        }
    )  # fmt: skip


def _reason_object(reason: Reason) -> dict[str, str]:
    return {"reason": reason, "outcome": OUTCOME_OF[reason], "meaning": MEANING[reason]}


def rules_markdown() -> str:
    """The same as a table for a page."""
    types = [event_type.value for event_type in EventType]
    head = [f"| state | {' | '.join(types)} |", "|---" * (1 + len(types)) + "|"]
    rows = [
        f"| {state.value} | " + " | ".join(_cell(row[event_type]) for event_type in EventType) + " |"
        for state, row in TABLE.items()
    ]
    return "\n".join(head + rows)


def _cell(decision: Decision) -> str:
    if decision.outcome is Outcome.APPLY:
        return f"APPLY → {decision.state_after.value}"
    return f"{decision.outcome.value} {decision.reason.value}"


def rules_mermaid() -> str:
    """The edges that APPLY moves a payment along, as a Mermaid state diagram."""
    edges = [
        f"    {state.value} --> {decision.state_after.value}: {event_type.value}"
        for state, row in TABLE.items()
        for event_type, decision in row.items()
        if decision.outcome is Outcome.APPLY
    ]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.CREATED.value}", *edges])


# ---- Parts ----------------------------------------------------------------------------------------


def _print_conflicts(screen: Screen, conflicts: "Iterable[Conflict]") -> None:
    rows = (
        (
            unbroken(conflict.event_id),
            f"{conflict.type.value} of {unbroken(conflict.payment_id)}",
            f"{conflict.recorded.type.value} of {unbroken(conflict.recorded.payment_id)}",
            _when(conflict.recorded_at),
            _origin(conflict),
        )
        for conflict in conflicts
    )
    screen.print_table([*map(Column, ("Event", "Came as", "On record as", "Recorded (UTC)", "From"))], rows)


def _transition(entry: "HistoryEntry") -> tuple[str, ...]:
    if entry.state_before is entry.state_after:
        return (entry.state_after.value,)
    return f"{entry.state_before.value} →", entry.state_after.value


def _when(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(" ")[:19]


def _origin(entry: "EventEntry | Conflict | Review") -> str:
    return f"run {entry.run_id}, {unambiguous(entry.source)}:{entry.line}"


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
