"""The end of an ingest: the next steps of a person, and a guess at the order of the input."""

import pytest

from payproc.cli.summary import describe_next_steps, is_probably_newest_first, print_summary
from payproc.ingest.run import IngestSummary
from payproc.logic import OUTCOME_OF, Outcome, Reason


def make_summary(reasons: dict[Reason, int], known: int = 0) -> IngestSummary:
    """Return the summary of a run with these reasons."""
    outcomes = dict.fromkeys(Outcome, 0)
    for reason, count in reasons.items():
        outcomes[OUTCOME_OF[reason]] += count
    events = sum(reasons.values())
    return IngestSummary(
        7, ["day.jsonl"], lines=events, events=events, outcomes=outcomes, reasons=reasons, known_conflicts=known
    )


@pytest.mark.parametrize(
    ("missing", "flagged", "applied", "expected"),
    [
        (34, 0, 66, True),
        (33, 0, 66, False),  # a third is not over a third
        (34, 33, 33, True),
        (34, 34, 30, False),  # half of the reviews are not most of them
        (4, 0, 6, True),
        (9, 0, 0, False),  # too few events to tell
        (0, 0, 100, False),
    ],
)
def test_order_is_guessed_from_missing_predecessors(missing: int, flagged: int, applied: int, expected: bool) -> None:
    reasons = {Reason.TRANSITION: applied, Reason.PREDECESSOR_MISSING: missing, Reason.FLAGGED: flagged}
    assert is_probably_newest_first(make_summary(reasons)) is expected


@pytest.mark.parametrize(
    ("waiting", "conflicts", "failed", "known", "lines"),
    [
        (0, 0, 0, 0, []),
        (2, 0, 0, 0, ["2 events need review; run payproc review"]),
        (
            1,
            1,
            2,
            0,
            [
                "1 event needs review; run payproc review",
                "3 events were rejected; run payproc history --run 7 --outcome REJECT",
            ],
        ),
        (0, 3, 0, 2, ["1 event was rejected; run payproc history --run 7 --outcome REJECT"]),
        (0, 3, 0, 3, []),
    ],
)
def test_next_steps_are_those_of_this_run(
    waiting: int, conflicts: int, failed: int, known: int, lines: list[str]
) -> None:
    """A known conflict is on record under the run that came first."""
    reasons = {Reason.EVENT_ID_CONFLICT: conflicts, Reason.PAYMENT_FAILED: failed}
    assert list(describe_next_steps(make_summary(reasons, known), waiting)) == lines


@pytest.mark.parametrize(
    ("differing", "dry_run", "lines"),
    [
        (0, False, ["duplicate_event 5"]),
        (1, False, ["duplicate_event 5 (1 differs)", "run payproc history --reason duplicate_event"]),
        (3, False, ["duplicate_event 5 (3 differ)", "run payproc history --reason duplicate_event"]),
        (3, True, ["duplicate_event 5 (3 differ)"]),
    ],
)
def test_differing_duplicates_are_counted(
    capsys: pytest.CaptureFixture[str], differing: int, dry_run: bool, lines: list[str]
) -> None:
    """The count says how to look, and is no warning."""
    summary = make_summary({Reason.DUPLICATE_EVENT: 5})
    summary.differing_duplicates, summary.dry_run = differing, dry_run
    print_summary(summary, is_whole=True, stderr=False)
    table = capsys.readouterr().out.partition("IGNORE")[2].partition("REJECT")[0]
    assert [row.removeprefix("5  100.0%").strip() for row in map(str.strip, table.splitlines()) if row] == lines
    assert list(describe_next_steps(summary, 0)) == []
