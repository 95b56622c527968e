"""What must come out: the rules of DESIGN as a plain fold over lines, written apart from the program.

Nothing here is imported from payproc. A test feeds the same lines and decisions to both, and compares everything that
payproc reports and stores with what the model says: decision lines, tables, `show`, the review queue and the summary.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

# Read down: state; across: authorize, capture, refund, fail, flag. A state is where the payment moves to.
_RULES = """
created     authorized              predecessor_missing   predecessor_missing  failed                 flagged
authorized  already_in_state        captured              predecessor_missing  failed                 flagged
captured    superseded              already_in_state      refunded             failure_after_capture  flagged
refunded    superseded              capture_after_refund  repeated_refund      failure_after_capture  flagged
failed      authorize_after_failure payment_failed        payment_failed       already_in_state       flagged
"""
_TYPES = ("authorize", "capture", "refund", "fail", "flag")
_STATE_OF = {"authorize": "authorized", "capture": "captured", "refund": "refunded", "fail": "failed"}
_IGNORED = ("duplicate_event", "already_in_state", "superseded")
_REJECTED = ("event_id_conflict", "payment_failed")
_CELL = {
    (state, event_type): cell
    for state, *cells in map(str.split, _RULES.strip().splitlines())
    for event_type, cell in zip(_TYPES, cells, strict=True)
}

OUTCOMES = ("APPLY", "IGNORE", "REJECT", "MANUAL_REVIEW")

Row = dict[str, Any]


class Fact(NamedTuple):
    """What a good line says."""

    event_id: str
    payment_id: str
    type: str


class Line(NamedTuple):
    """An input line without its line end, and what it says; None if it is malformed or blank."""

    raw: bytes
    fact: Fact | None

    @property
    def is_blank(self) -> bool:
        return not self.raw.strip()

    @property
    def payload(self) -> str:
        return self.raw.removesuffix(b"\r").decode()


class Source(NamedTuple):
    """A named file of lines."""

    name: str
    lines: Sequence[Line]


def outcome_of(reason: str) -> str:
    """The outcome that a reason belongs to."""
    if reason == "transition":
        return "APPLY"
    if reason in _IGNORED:
        return "IGNORE"
    return "REJECT" if reason in _REJECTED else "MANUAL_REVIEW"


class Model:
    """What is on record after some runs and resolutions."""

    def __init__(self) -> None:
        self.histories: dict[str, list[Row]] = {}
        """By payment: its entries in order, events and resolutions."""
        self.recorded: dict[str, Row] = {}
        """By event_id: the entry that was recorded first."""
        self.conflicts: dict[Fact, Row] = {}
        self.runs: list[Row] = []

    def state(self, payment_id: str) -> str:
        history = self.histories.get(payment_id)
        return str(history[-1]["state_after"]) if history else "created"

    def ingest(self, sources: Sequence[Source]) -> list[Row]:
        """Process files as one run; give the line of `--decisions` for each line that is not blank."""
        run: Row = {"run_id": len(self.runs) + 1, "source": [source.name for source in sources]}
        decisions = [
            self._decide(line, {"run_id": run["run_id"], "source": source.name, "line": number})
            for source in sources
            for number, line in enumerate(source.lines, 1)
            if not line.is_blank
        ]
        counts = Counter(decision.get("reason", "malformed") for decision in decisions)
        outcomes = Counter(dict.fromkeys(OUTCOMES, 0))
        for reason, count in counts.items():
            if reason != "malformed":
                outcomes[outcome_of(reason)] += count
        run |= {"lines": len(decisions), "malformed": counts.pop("malformed", 0)}
        run |= {"events": run["lines"] - run["malformed"], "outcomes": dict(outcomes), "reasons": dict(counts)}
        run["known_conflicts"] = sum(decision.get("known", False) for decision in decisions)
        self.runs.append(run)
        return decisions

    def _decide(self, line: Line, origin: Row) -> Row:
        place = {"source": origin["source"], "line": origin["line"]}
        if line.fact is None:
            return {**place, "error": ...}
        event_id, payment_id, event_type = line.fact
        state = self.state(payment_id)
        decision = {**place, **line.fact._asdict(), "state_before": state, "state_after": state}
        first = self.recorded.get(event_id)
        if first is None:
            entry = self._record(line, origin)
            return {**decision, **{name: entry[name] for name in ("outcome", "reason", "state_after")}}
        if (first["payment_id"], first["type"]) == (payment_id, event_type):
            duplicate = {"outcome": "IGNORE", "reason": "duplicate_event", "original_outcome": first["outcome"]}
            return {**decision, **duplicate}
        recorded = {"payment_id": first["payment_id"], "type": first["type"]}
        evidence = {**line.fact._asdict(), "recorded": recorded, **origin, "payload": line.payload}
        known = {"known": True} if line.fact in self.conflicts else {}
        self.conflicts.setdefault(line.fact, evidence)
        return {**decision, "outcome": "REJECT", "reason": "event_id_conflict", "recorded": recorded, **known}

    def _record(self, line: Line, origin: Row) -> Row:
        assert line.fact is not None
        state = self.state(line.fact.payment_id)
        cell = _CELL[state, line.fact.type]
        moves = cell in _STATE_OF.values()
        reason = "transition" if moves else cell
        history = self.histories.setdefault(line.fact.payment_id, [])
        entry = {
            "kind": "event",
            "position": len(history) + 1,
            **line.fact._asdict(),
            "outcome": outcome_of(reason),
            "reason": reason,
            "state_before": state,
            "state_after": cell if moves else state,
            **origin,
            "payload": line.payload,
        }
        history.append(entry)
        self.recorded[line.fact.event_id] = entry
        return entry

    def waiting(self) -> list[str]:
        """The event_ids that wait for a person, in no order."""
        resolved = {entry["event_id"] for entry in self.resolutions()}
        return [
            event_id
            for event_id, entry in self.recorded.items()
            if entry["outcome"] == "MANUAL_REVIEW" and event_id not in resolved
        ]

    def resolve(self, event_id: str, resolution: str, note: str, by: str) -> Row:
        """A person applies or dismisses what waits; give the new entry."""
        assert event_id in self.waiting()
        event = self.recorded[event_id]
        history = self.histories[event["payment_id"]]
        state = self.state(event["payment_id"])
        entry = {
            "kind": "resolution",
            "position": len(history) + 1,
            "event_id": event_id,
            "payment_id": event["payment_id"],
            "resolution": resolution,
            "state_before": state,
            "state_after": _STATE_OF[event["type"]] if resolution == "apply" else state,
            "note": note,
            "resolved_by": by,
        }
        history.append(entry)
        return entry

    def show(self, payment_id: str) -> Row | None:
        """What `show --format json` prints, without times and with conflicts sorted by identity; None if unknown."""
        history = self.histories.get(payment_id, [])
        conflicts = [
            conflict
            for fact, conflict in sorted(self.conflicts.items())
            if payment_id in (fact.payment_id, conflict["recorded"]["payment_id"])
        ]
        if not history and not conflicts:
            return None
        waiting = set(self.waiting())
        entries = [_without(entry, "payment_id") for entry in history]
        return {
            "payment_id": payment_id,
            "state": self.state(payment_id),
            "version": len(history),
            "history": entries,
            "open_reviews": [entry for entry in entries if entry["kind"] == "event" and entry["event_id"] in waiting],
            "conflicts": conflicts,
        }

    def export(self) -> list[Line]:
        """The lines of an export, each with what a line end of one newline leaves of it."""
        events = [
            (Fact(entry["event_id"], entry["payment_id"], entry["type"]), entry["payload"])
            for _, history in sorted(self.histories.items())
            for entry in history
            if entry["kind"] == "event"
        ]
        conflicts = [
            (fact, self.conflicts[fact]["payload"])
            for fact in sorted(self.conflicts, key=lambda fact: (*fact[:2], _TYPES.index(fact.type)))
        ]
        return [
            Line(payload.encode() + b"\r" * payload.endswith("\r"), fact) for fact, payload in (*events, *conflicts)
        ]

    def payment_ids(self) -> set[str]:
        """Every payment that anything is on record about."""
        return {*self.histories, *(fact.payment_id for fact in self.conflicts)}

    def resolutions(self) -> list[Row]:
        """What people decided."""
        return [entry for history in self.histories.values() for entry in history if entry["kind"] == "resolution"]


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
