"""Input lines and events."""

import json
from collections.abc import Sequence
from pathlib import Path

from payproc.batch import EventResult, InputEvent, Result
from payproc.explain import Malformed
from payproc.schemas import parse_line
from tests.support.workload import messy_day


def event_line(event_id: str, payment_id: str, event_type: str, **more: object) -> bytes:
    """Return an input line."""
    return json.dumps({"event_id": event_id, "payment_id": payment_id, "type": event_type, **more}).encode()


def input_events(*facts: tuple[str, str, str], source: int = 0, first_line: int = 1) -> list[InputEvent]:
    """Return events (event_id, payment_id, type) as if read from one source."""
    result = []
    for number, fact in enumerate(facts, first_line):
        parsed = parse_line(event_line(*fact))
        assert not isinstance(parsed, Malformed)
        result.append(InputEvent(*parsed, source, number))
    return result


def write_lines(path: Path, lines: Sequence[bytes]) -> Path:
    """Write a file of lines; return its path."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def messy_lines(seed: int, count: int) -> list[bytes]:
    """Return about `count` lines of a messy day, made from a seed."""
    return [line.raw for line in messy_day(seed, count)]


def reasons(results: Sequence[Result]) -> list[str]:
    """Return the reason of each result, or the error of a malformed one."""
    return [result.decision.reason.value if isinstance(result, EventResult) else result.error for result in results]
