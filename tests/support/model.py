"""An independent model of payproc: the README's decision table as a plain fold over lines.

Nothing here is imported from payproc. A test gives the same lines and decisions of people to both,
and compares all results: decision lines, tables, `show`, the review queue and the summary.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

# Rows are states, columns the types of _TYPES. A cell is the state that the payment moves to, or a
# reason to stay.
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

_STORED = ("payment_id", "position", "event_id", "type", "outcome", "reason", "state_before", "state_after")
"""The first columns of an event, in the order of `postgres.contents`."""

OUTCOMES = ("APPLY", "IGNORE", "REJECT", "MANUAL_REVIEW")

Row = dict[str, Any]


class Fact(NamedTuple):
    """The three fields that a valid line states."""

    event_id: str
    payment_id: str
    type: str


class Line(NamedTuple):
    """An input line without its line feed, and its fact; None if it is malformed or blank."""

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
    """Return the outcome that a reason belongs to."""
    if reason == "transition":
        return "APPLY"
    if reason in _IGNORED:
        return "IGNORE"
    return "REJECT" if reason in _REJECTED else "MANUAL_REVIEW"


def content_of(payload: str) -> Any:
    """Return the content of a line. Numbers are compared as text."""

    def as_text(number: str) -> dict[None, str]:
        return {None: number}

    return json.loads(payload, parse_int=as_text, parse_float=as_text)


class Model:
    """The records after some runs, resolutions and corrections."""

    def __init__(self) -> None:
        self.histories: dict[str, list[Row]] = {}
        """Events, resolutions and corrections in order, by payment_id."""
        self.recorded: dict[str, Row] = {}
        """The first entry of an event_id."""
        self.conflicts: dict[Fact, Row] = {}
        self.redeliveries: dict[tuple[str, str], Row] = {}
        """Duplicates with other content, by event_id and payload."""
        self.runs: list[Row] = []

    def state(self, payment_id: str) -> str:
        history = self.histories.get(payment_id)
        return str(history[-1]["state_after"]) if history else "created"

    def ingest(self, sources: Sequence[Source]) -> list[Row]:
        """Ingest files as one run; return a decision for each line that is not blank."""
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
        run["differing_duplicates"] = sum(decision.get("differs", False) for decision in decisions)
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
            if content_of(line.payload) == content_of(first["payload"]):
                return {**decision, **duplicate}
            redelivery = {"event_id": event_id, "type": event_type, **origin, "payload": line.payload}
            self.redeliveries.setdefault((event_id, line.payload), redelivery)
            return {**decision, **duplicate, "differs": True}
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

    def pending(self) -> list[str]:
        """Return the event_ids of pending reviews, in no order."""
        resolved = {entry["event_id"] for entry in self.resolutions()}
        return [
            event_id
            for event_id, entry in self.recorded.items()
            if entry["outcome"] == "MANUAL_REVIEW" and event_id not in resolved
        ]

    def resolve(self, event_id: str, resolution: str, note: str, by: str) -> Row:
        """Apply or dismiss a pending event; return the new entry."""
        assert event_id in self.pending()
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

    def correct(self, payment_id: str, state: str, note: str, by: str) -> Row | None:
        """Set the state of a payment with a history.

        Return the new entry, None if it has that state.
        """
        history = self.histories[payment_id]
        if state == self.state(payment_id):
            return None
        entry = {
            "kind": "correction",
            "position": len(history) + 1,
            "payment_id": payment_id,
            "state_before": self.state(payment_id),
            "state_after": state,
            "note": note,
            "corrected_by": by,
        }
        history.append(entry)
        return entry

    def resolve_all(self, resolution: str, note: str, by: str, *, legal_now: bool) -> list[tuple[str, str]]:
        """Decide all pending events, each payment in the order of its history.

        Return event_ids with `resolved` or `refused`, sorted. With `legal_now`, only events that
        the table would apply to the state at their turn; again and again, until there is none.
        """
        results: list[tuple[str, str]] = []
        while True:
            before = len(results)
            pending = set(self.pending()) - {event_id for event_id, _ in results}
            for history in self.histories.values():
                for event_id in [entry["event_id"] for entry in history if entry["kind"] == "event"]:
                    event = self.recorded[event_id]
                    is_legal = _CELL[self.state(event["payment_id"]), event["type"]] in _STATE_OF.values()
                    if event_id not in pending or (legal_now and not is_legal):
                        continue
                    is_refused = resolution == "apply" and event["type"] == "flag"
                    if not is_refused:
                        self.resolve(event_id, resolution, note, by)
                    results.append((event_id, "refused" if is_refused else "resolved"))
            if len(results) == before:
                return sorted(results)

    def show(self, payment_id: str) -> Row | None:
        """Return the output of `show --format json` without times.

        Conflicts and redeliveries are sorted by identity. None if unknown.
        """
        history = self.histories.get(payment_id, [])
        conflicts = [
            conflict
            for fact, conflict in sorted(self.conflicts.items())
            if payment_id in (fact.payment_id, conflict["recorded"]["payment_id"])
        ]
        if not history and not conflicts:
            return None
        pending = set(self.pending())
        entries = [_without(entry, "payment_id") for entry in history]
        return {
            "payment_id": payment_id,
            "state": self.state(payment_id),
            "version": len(history),
            "history": entries,
            "open_reviews": [entry for entry in entries if entry["kind"] == "event" and entry["event_id"] in pending],
            "conflicts": conflicts,
            "redeliveries": [
                redelivery
                for (event_id, _), redelivery in sorted(self.redeliveries.items())
                if self.recorded[event_id]["payment_id"] == payment_id
            ],
        }

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return the rows of one run over one source, as `postgres.contents` returns them."""
        events = [
            (*(entry[name] for name in _STORED), 0, entry["line"], entry["payload"])
            for history in self.histories.values()
            for entry in history
            if entry["kind"] == "event"
        ]
        return {
            "payments": sorted((each, self.state(each), len(history)) for each, history in self.histories.items()),
            "events": sorted(events),
            "conflicts": [(*fact, 0, row["line"], row["payload"]) for fact, row in self._sorted_conflicts()],
            "redeliveries": [
                (event_id, 0, row["line"], payload) for (event_id, payload), row in sorted(self.redeliveries.items())
            ],
        }

    def export(self) -> list[Line]:
        """Return the lines of an export, each as it reads back after a plain line feed."""
        events = [
            (Fact(entry["event_id"], entry["payment_id"], entry["type"]), entry["payload"])
            for _, history in sorted(self.histories.items())
            for entry in history
            if entry["kind"] == "event"
        ]
        conflicts = [(fact, conflict["payload"]) for fact, conflict in self._sorted_conflicts()]
        redeliveries = [
            (Fact(event_id, self.recorded[event_id]["payment_id"], self.recorded[event_id]["type"]), payload)
            for event_id, payload in sorted(
                self.redeliveries, key=lambda key: (key[0], hashlib.sha256(key[1].encode()).digest())
            )
        ]
        return [
            Line(payload.encode() + b"\r" * payload.endswith("\r"), fact)
            for fact, payload in (*events, *conflicts, *redeliveries)
        ]

    def _sorted_conflicts(self) -> list[tuple[Fact, Row]]:
        """Return conflicts in the database's order, in which types follow _TYPES."""
        return sorted(self.conflicts.items(), key=lambda item: (*item[0][:2], _TYPES.index(item[0].type)))

    def payment_ids(self) -> set[str]:
        """Return every payment_id of an event or a conflict."""
        return {*self.histories, *(fact.payment_id for fact in self.conflicts)}

    def resolutions(self) -> list[Row]:
        """Return all resolutions."""
        return self._entries("resolution")

    def corrections(self) -> list[Row]:
        """Return all corrections."""
        return self._entries("correction")

    def _entries(self, kind: str) -> list[Row]:
        return [entry for history in self.histories.values() for entry in history if entry["kind"] == kind]


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
