"""Claims: an event_id belongs to one payment and type before its event is recorded.

On a cluster they are rows of a table. A layout without them has the event itself in their place.
"""

from tests.support.postgres import Sql


def has_claims(sql: Sql) -> bool:
    """Return whether event_ids are claimed before their events are recorded."""
    return bool(
        sql.value("SELECT count(*) FROM pg_class WHERE oid = to_regclass('payproc.event_ids') AND relkind = 'r'")
    )


def unused_claims(sql: Sql) -> int:
    """Return the number of claims without their event."""
    if not has_claims(sql):
        return 0
    claimed = set(sql.rows("SELECT event_id, payment_id, type::text FROM payproc.event_ids"))
    return len(claimed - set(sql.rows("SELECT event_id, payment_id, type::text FROM payproc.events")))
