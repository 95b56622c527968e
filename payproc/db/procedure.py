"""The procedure record_decisions: its text, in either variant.

The .sql file explains the procedure itself.
"""

from pathlib import Path

ASYNCHRONOUS_COMMIT = "SET LOCAL synchronous_commit = off;"
"""The line of record_decisions.sql that the variant for Citus omits."""

# importlib.resources also reads archives, and takes longer to import than `re`.
_FILE = Path(__file__).with_name("record_decisions.sql")


def read_procedure(*, for_citus: bool) -> str:
    """Return the statement that creates the procedure; for Citus without its asynchronous commits.

    On Citus the coordinator's commit is the decision that the other machines follow. If it could be
    lost after one of them has followed it, a payment would be left without its event, or an event
    without its payment.
    """
    statement = _FILE.read_text("utf-8")
    return statement.replace(ASYNCHRONOUS_COMMIT, "") if for_citus else statement


def read_body(*, for_citus: bool) -> str:
    """Return the procedure's source as the database keeps it."""
    return read_procedure(for_citus=for_citus).split("$procedure$")[1]
