"""Whole exports, read at once."""

from payproc.db.connection import Database
from payproc.export import ExportSummary, OmittedRecord, export_events


def exported(database: Database) -> tuple[list[bytes], ExportSummary, list[OmittedRecord]]:
    """Return the lines of an export, its counts, and the omitted records."""
    totals = ExportSummary()
    omitted: list[OmittedRecord] = []
    return b"".join(export_events(database, totals, omitted.append)).splitlines(keepends=True), totals, omitted
