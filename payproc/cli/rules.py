"""`payproc rules`: the decision table, and the meaning of every reason in words."""

from enum import Enum
from typing import Annotated

import typer

from payproc.cli.console import Screen, open_screen
from payproc.cli.exits import exit_on_errors
from payproc.cli.options import Format, format_examples
from payproc.cli.render import MEANING, style_outcome, to_json
from payproc.cli.table import Column, Row
from payproc.logic import OUTCOME_OF, TABLE, Decision, EventType, Outcome, Reason, State

EXAMPLES = format_examples("payproc rules", "payproc rules --format mermaid")

_BY_IDENTITY = (Reason.EVENT_ID_CONFLICT, Reason.DUPLICATE_EVENT)
"""Reasons that precede any state, in order of precedence."""


class RulesFormat(str, Enum):
    """Format of the rules."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    MARKDOWN = "markdown"
    MERMAID = "mermaid"


def rules(
    output_format: Annotated[
        RulesFormat, typer.Option("--format", case_sensitive=False, help="Output for a person, a script or a page.")
    ] = RulesFormat.TABLE,
) -> None:
    """Print the decision table from the code."""
    with exit_on_errors():
        if output_format is RulesFormat.TABLE:
            _print_table(open_screen())
        elif output_format in (RulesFormat.JSON, RulesFormat.JSONL):
            typer.echo(_to_json(Format(output_format.value)))
        elif output_format is RulesFormat.MARKDOWN:
            typer.echo(_to_markdown())
        else:
            typer.echo(_to_mermaid())


def _print_table(screen: Screen) -> None:
    """Print a row for every state and type, then the reasons that precede any state."""
    rows: list[Row] = []
    for state, decisions in TABLE.items():
        rows += [()] * bool(rows)
        for event_type, decision in decisions.items():
            outcome = style_outcome(decision.outcome)
            rows.append((state.value, event_type.value, outcome, decision.reason.value, decision.state_after.value))
    screen.print_table([*map(Column, ("State", "Event", "Outcome", "Reason", "Next state"))], rows)
    screen.print(["", "Checked before the state, in this order:"])
    screen.print(f"{OUTCOME_OF[reason].value} {reason.value}: {MEANING[reason]}" for reason in _BY_IDENTITY)


def _to_json(output_format: Format) -> str:
    table = [
        {
            "state": state,
            "type": event_type,
            "outcome": decision.outcome,
            "reason": decision.reason,
            "next_state": decision.state_after,
        }
        for state, decisions in TABLE.items()
        for event_type, decision in decisions.items()
    ]
    return to_json(
        {
            "before_the_state": [_describe_reason(reason) for reason in _BY_IDENTITY],
            "table": table,
            "reasons": [_describe_reason(reason) for reason in Reason],
        },
        output_format,
    )


def _describe_reason(reason: Reason) -> dict[str, str]:
    return {"reason": reason, "outcome": OUTCOME_OF[reason], "meaning": MEANING[reason]}


def _to_markdown() -> str:
    types = [event_type.value for event_type in EventType]
    head = [f"| state | {' | '.join(types)} |", "|---" * (1 + len(types)) + "|"]
    rows = [
        f"| {state.value} | " + " | ".join(_describe_decision(decisions[event_type]) for event_type in EventType) + " |"
        for state, decisions in TABLE.items()
    ]
    return "\n".join(head + rows)


def _describe_decision(decision: Decision) -> str:
    if decision.outcome is Outcome.APPLY:
        return f"APPLY → {decision.state_after.value}"
    return f"{decision.outcome.value} {decision.reason.value}"


def _to_mermaid() -> str:
    """Return the edges that APPLY moves a payment along, as a Mermaid state diagram."""
    edges = [
        f"    {state.value} --> {decision.state_after.value}: {event_type.value}"
        for state, decisions in TABLE.items()
        for event_type, decision in decisions.items()
        if decision.outcome is Outcome.APPLY
    ]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.CREATED.value}", *edges])
