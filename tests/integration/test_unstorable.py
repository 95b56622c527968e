"""Events that the database refuses to store, or returns differently: each is isolated."""

from contextlib import closing

import pytest

from payproc.db import schema
from payproc.db.connection import Database
from payproc.errors import CannotFinish
from payproc.explain import Malformed
from payproc.handlers import Recorder
from tests.support.events import input_events, reasons
from tests.support.postgres import NewDatabase, Sql, as_database, assert_books_right


def test_rejected_events_are_isolated(database: Database, sql: Sql) -> None:
    """A bisection finds the events that the database rejects; their neighbours are recorded."""
    sql.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.event_id LIKE 'bad%' THEN"
        " RAISE EXCEPTION 'no room for this' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$"
    )
    sql.rows("CREATE TRIGGER refuse BEFORE INSERT ON payproc.events FOR EACH ROW EXECUTE FUNCTION refuse()")
    facts = [(f"e{number}", f"p{number % 3}", "authorize") for number in range(20)]
    facts[7] = ("bad", "p1", "authorize")
    facts[13] = ("bad too", "p9", "authorize")
    with closing(Recorder(database, 1)) as recorder:
        results = recorder.handle(input_events(*facts))
    refused = [place for place, result in enumerate(results) if isinstance(result, Malformed)]
    assert refused == [7, 13]
    assert results[7] == Malformed("the database cannot store it: no room for this")
    assert sql.value("SELECT count(*) FROM payproc.events") == 18
    assert_books_right(sql)


def test_unstorable_character_is_malformed(new_database: NewDatabase) -> None:
    """A Latin-1 database lacks the arrow in one line."""
    database = as_database(new_database("template0", "LATIN1"), "a Latin-1 database")
    schema.bring_up(database)
    with closing(Recorder(database, 1)) as recorder:
        results = recorder.handle(
            input_events(("é1", "p1", "authorize"), ("→2", "p2", "authorize"), ("é3", "p1", "capture"))
        )
    assert reasons(results[::2]) == ["transition", "transition"]
    assert isinstance(results[1], Malformed)
    assert results[1].error.startswith("the database cannot store it: character with byte sequence 0xe2 0x86 0x92")


def test_lossy_encoding_is_not_reported_as_recorded(new_database: NewDatabase) -> None:
    """EUC_JP returns a broken bar as a full-width one, so the id reads back differently."""
    database = as_database(new_database("template0", "EUC_JP"), "an EUC_JP database")
    schema.bring_up(database)
    with closing(Recorder(database, 1)) as recorder:
        assert reasons(recorder.handle(input_events(("e\u00a6", "p1", "authorize")))) == ["transition"]
        with pytest.raises(CannotFinish, match="does not fit its stored history"):
            recorder.handle(input_events(("e\u00a6", "p2", "fail"), first_line=2))
