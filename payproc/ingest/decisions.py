"""Output files of an ingest: `--decisions` and `--malformed`."""

import shutil
from typing import IO

import msgspec

from payproc.errors import CannotFinish
from payproc.escape import printable_json
from payproc.ingest.lines import OversizedLine


class DecisionLine(msgspec.Struct, omit_defaults=True):
    """One object of `--decisions`, for an event."""

    source: str
    line: int
    event_id: str
    payment_id: str
    type: str
    outcome: str
    reason: str
    state_before: str
    state_after: str
    original_outcome: str | None = None
    recorded: dict[str, str] | None = None
    known: bool = False


def _json_line(value: object) -> bytes:
    """One object of `--decisions`, which may be read on a terminal."""
    encoded = msgspec.json.encode(value)
    is_plain = encoded.isascii() and b"\x7f" not in encoded
    return (encoded if is_plain else printable_json(encoded.decode()).encode()) + b"\n"


def _write(option: str, file: IO[bytes], content: bytes | bytearray | OversizedLine) -> None:
    """Write decisions, or a malformed line as it came, byte for byte, so that it can be mended and ingested."""
    try:
        if isinstance(content, OversizedLine):
            if content.spool is not None:
                content.spool.seek(0)
                shutil.copyfileobj(content.spool, file)
                content.spool.close()
        else:
            file.write(content)
        if option == "--malformed":
            file.write(b"\n")
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotFinish(
            f"{option}: cannot be written: {error.strerror}; what was recorded stays recorded, and is reported as "
            "duplicates when the same command is run again"
        ) from error
