"""How fast `payproc ingest` is, against the plain way to write such a tool, on one server in one run.

    python tests/benchmarks/ingest.py [--events 100000] [--rounds 3]

The plain way: a handler with one ORM session and one commit per event, over tables with the same keys. Both run on the
same embedded PostgreSQL with fsync on, in turns; payproc as a whole process, from start to exit, over fresh events. The
handler is timed over fewer events, since its rate does not depend on how many follow. It also measures what
`payproc --help` and `payproc show` cost in CPU time. Read the figures as ratios: machines differ.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from payproc import embedded
from payproc.logic import EventType, State, classify

COMMAND = Path(sys.executable).with_name("payproc")
ORM_EVENTS = 2_000


class Base(DeclarativeBase):
    """The tables of the plain way."""


class OrmPayment(Base):
    """A payment and its state."""

    __tablename__ = "orm_payments"
    payment_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    version: Mapped[int]


class OrmEvent(Base):
    """An event and what became of it."""

    __tablename__ = "orm_events"
    event_id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(index=True)
    type: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str]
    payload: Mapped[str]


class Event:
    """An event as the plain way reads it."""

    def __init__(self, line: str) -> None:
        content = json.loads(line)
        self.event_id: str = content["event_id"]
        self.payment_id: str = content["payment_id"]
        self.type = EventType(content["type"])


def fresh_lines(count: int, seed: int) -> Iterator[str]:
    """Histories of one to three legal events with random ids, about 180 bytes a line."""
    chance = random.Random(seed)
    made = 0
    while True:
        payment_id = f"pay_{chance.getrandbits(64):016x}"
        for event_type in ("authorize", "capture", "refund")[: chance.choice((1, 2, 2, 2, 3))]:
            if made == count:
                return
            made += 1
            event_id = f"evt_{chance.getrandbits(64):016x}"
            content = {"event_id": event_id, "payment_id": payment_id, "type": event_type}
            more = {"amount": chance.randrange(100_000), "currency": "EUR", "created": "2026-11-20T09:00:00Z"}
            yield json.dumps({**content, **more, "attempt": 1})


def orm_rate(url: URL, lines: list[str]) -> float:
    """Events per second of one ORM session and one commit per event."""
    engine = create_engine(url)
    began = time.perf_counter()
    for line in lines:
        event = Event(line)
        with Session(engine) as session:
            recorded = session.get(OrmEvent, event.event_id)
            payment = session.get(OrmPayment, event.payment_id)
            if payment is None:
                payment = OrmPayment(payment_id=event.payment_id, state=State.CREATED.value, version=0)
                session.add(payment)
            fact = None if recorded is None else Event(recorded.payload)
            decision = classify(event, fact, State(payment.state))
            if recorded is None:
                session.add(
                    OrmEvent(
                        event_id=event.event_id,
                        payment_id=event.payment_id,
                        type=event.type.value,
                        outcome=decision.outcome.value,
                        reason=decision.reason.value,
                        payload=line,
                    )
                )
                payment.state = decision.state_after.value
                payment.version += 1
            session.commit()
    seconds = time.perf_counter() - began
    engine.dispose()
    return len(lines) / seconds


def payproc_rate(home: Path, file: Path, events: int) -> float:
    """Events per second of `payproc ingest FILE` as a whole process, on the embedded database."""
    environment = {**os.environ, "PAYPROC_HOME": str(home)}
    environment.pop("DATABASE_URL", None)
    began = time.perf_counter()
    output = subprocess.run(
        [COMMAND, "ingest", "--quiet", "--format", "json", file], env=environment, check=True, capture_output=True
    ).stdout
    seconds = time.perf_counter() - began
    applied = json.loads(output)["outcomes"]["APPLY"]
    if applied != events:
        raise SystemExit(f"expected {events} fresh events, {applied} were applied")
    return events / seconds


def cpu_seconds(home: Path, *arguments: str) -> float:
    """User and system time of one command, its best of five."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = float("inf")
    for _ in range(5):
        before = used()
        subprocess.run(
            [COMMAND, *arguments], env={**os.environ, "PAYPROC_HOME": str(home)}, capture_output=True, check=False
        )
        best = min(best, used() - before)
    return best


def main() -> None:
    """Measure in turns; print medians, spread and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="payproc-benchmark-"))
    rates: dict[str, list[float]] = {"one ORM session and commit per event": [], "payproc ingest": []}
    try:
        with embedded.running_server(home) as server:
            url = URL.create("postgresql+psycopg2", query=server.connect_args)
            Base.metadata.create_all(create_engine(url))
            file = home.with_suffix(".jsonl")
            for turn in range(options.rounds):
                lines = list(fresh_lines(options.events, turn))
                file.write_text("\n".join(lines))
                rates["one ORM session and commit per event"].append(orm_rate(url, lines[:ORM_EVENTS]))
                rates["payproc ingest"].append(payproc_rate(home, file, options.events))
            file.unlink()
            help_seconds = cpu_seconds(home, "--help")
            show_seconds = cpu_seconds(home, "show", "unknown")
    finally:
        shutil.rmtree(home)
    slowest = statistics.median(rates["one ORM session and commit per event"])
    print(f"{options.events:,} fresh events, {options.rounds} rounds in turns, {os.cpu_count()} cores, fsync on\n")
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        print(f"{name:<40} {middle:>8,.0f} events/s  ({spread})  {middle / slowest:>6.1f} x")
    print(f"\nCPU: payproc --help {help_seconds:.2f} s, payproc show {show_seconds:.2f} s")


if __name__ == "__main__":
    main()
