"""`payproc verify`: check every history against the stored states."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import typer

from payproc.cli.console import is_watched, show_progress
from payproc.cli.database import open_database
from payproc.cli.exits import DONE_WITH_FINDINGS, exit_on_errors
from payproc.cli.options import DatabaseUrl, Format, FormatOption, Quiet, format_examples
from payproc.cli.render import format_count, to_json_line
from payproc.escape import unambiguous

if TYPE_CHECKING:
    from payproc.verify import Finding, VerifySummary

EXAMPLES = format_examples("payproc verify")


def verify(output_format: FormatOption = Format.TABLE, quiet: Quiet = False, database_url: DatabaseUrl = None) -> None:
    """Check every payment's history against its stored state.

    Exits with 3 if they disagree, or if a recorded decision differs from today's rules.
    """
    with exit_on_errors():
        from payproc.verify import VerifySummary, count_entries, verify_histories  # late

        summary = VerifySummary()
        with open_database(database_url, quiet=quiet) as database:
            has_bar = is_watched(quiet=quiet)
            total = count_entries(database) if has_bar else None
            with show_progress(total, has_bar) as on_progress:
                findings = verify_histories(database, summary, on_progress)
                if output_format is not Format.TABLE:
                    for part in _stream_json(findings, summary, is_one_line=output_format is Format.JSONL):
                        typer.echo(part, nl=False)
                else:
                    for finding in findings:
                        typer.echo(_describe_finding(finding))
        if output_format is Format.TABLE:
            for line in _describe_summary(summary):
                typer.echo(line)
    raise typer.Exit(DONE_WITH_FINDINGS if any(summary.problems.values()) else 0)


def _describe_finding(finding: "Finding") -> str:
    entry = "" if finding.position is None else f" entry {finding.position}:"
    return (
        f"payment {unambiguous(finding.payment_id)}:{entry} {finding.problem.value}: "
        f"found {finding.found}, expected {finding.expected}"
    )


def _describe_summary(summary: "VerifySummary") -> list[str]:
    changed = sum(summary.problems.values()) - summary.wrong
    books = "no problems found" if not summary.wrong else f"{format_count(summary.wrong, 'problem')} found"
    entries = format_count(summary.entries, "entry", "entries")
    lines = [f"{format_count(summary.payments, 'payment')}, {entries}: {books}"]
    if changed:
        lines.append(
            f"{format_count(changed, 'recorded decision')} would have another outcome by today's rules; "
            "the histories follow the rules of their time"
        )
    return lines


def _stream_json(findings: "Iterable[Finding]", summary: "VerifySummary", *, is_one_line: bool) -> Iterator[str]:
    """Yield one JSON object, a finding at a time to keep memory flat. The summary comes last."""
    yield '{"findings": ['
    line_end = "" if is_one_line else "\n"
    separator = line_end + "  "
    for finding in findings:
        yield separator + to_json_line(finding)
        separator = "," + line_end + "  "
    counts = {problem: count for problem, count in summary.problems.items() if count}
    rest = {"payments": summary.payments, "entries": summary.entries, "problems": counts, "wrong": summary.wrong}
    yield "]," + line_end + " " + to_json_line(rest)[1:] + "\n"
