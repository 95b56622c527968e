"""Notes: progress lines for a person who waits.

The command line shows them on stderr; deeper layers send them.
"""

from typing import Protocol


class Note(Protocol):
    """A receiver of progress lines. `always` marks a line that --quiet must not drop."""

    def __call__(self, line: str, *, always: bool = False) -> None: ...


def drop_note(line: str, *, always: bool = False) -> None:
    """Drop a line, for callers without a screen."""
