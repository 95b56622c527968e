"""Fixtures of the tests on a real database: runs that record, and checks of the records."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from payproc.db.connection import Database
from payproc.handlers import Recorder
from payproc.verify import VerifySummary, verify_histories
from tests.support.events import input_events
from tests.support.postgres import Sql, assert_books_right


@pytest.fixture
def recorder(database: Database, sql: Sql) -> Iterator[Recorder]:
    run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id")
    with closing(Recorder(database, run_id)) as recorder:
        yield recorder


@pytest.fixture
def verified(database: Database, sql: Sql) -> Callable[[], None]:
    """Checks the records with `verify` and with the tests' own fold, corrections included."""

    def check() -> None:
        assert list(verify_histories(database, VerifySummary())) == []
        assert_books_right(sql)

    return check


@pytest.fixture
def record(database: Database, sql: Sql) -> Callable[..., None]:
    """Records facts (event_id, payment_id, type), each time as a run of its own."""

    def record(*facts: tuple[str, str, str]) -> None:
        run_id = sql.value("INSERT INTO payproc.runs (sources) VALUES ('{test}') RETURNING run_id")
        with closing(Recorder(database, run_id)) as recorder:
            recorder.handle(input_events(*facts))

    return record
