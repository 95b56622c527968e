"""Places: the run, file and line that an event came from, cut to a width.

Belongs here: the one kind of text in a table that may lose characters. A path is cut on its left,
because the file's name and the line number identify the line. The cut is before a folder where
there is room, and never inside a number. The module is pure.
"""

from typing import NamedTuple

from payproc.cli.wrap import measure_text, wrap

CUT = "…"
"""Mark of the missing beginning of a path."""


class Place(NamedTuple):
    """A path with a text before it, as `run 7, `, and one after it, as `:15177`."""

    before: str
    path: str
    after: str = ""

    @property
    def text(self) -> str:
        """Return the whole text."""
        return f"{self.before}{self.path}{self.after}"

    @property
    def short(self) -> str:
        """Return the shortest line that still names the whole file."""
        folder, slash, name = self.path.rpartition("/")
        return f"{CUT}{slash}{name}{self.after}" if folder else f"{self.path}{self.after}"


def fit_place(place: Place, width: int) -> list[str]:
    """Return a place in lines of at most `width` cells: one, or two with the path on the second."""
    if measure_text(place.text) <= width:
        return [place.text]
    room = width - measure_text(place.before) - measure_text(place.after)
    if (path := _cut_at_folder(place.path, room)) is not None:
        return [f"{place.before}{path}{place.after}"]
    above = wrap(place.before.rstrip(), width) if place.before.strip() else []
    room = width - measure_text(place.after)
    if measure_text(place.path) <= room:
        return [*above, f"{place.path}{place.after}"]
    if (path := _cut_at_folder(place.path, room)) is not None:
        return [*above, f"{path}{place.after}"]
    if (path := _cut_name(place.path, room)) is not None:
        return [*above, f"{path}{place.after}"]
    *full, last = wrap(place.path, width)
    end = [f"{last}{place.after}"] if measure_text(last) <= room else [last, *wrap(place.after, width)]
    return [*above, *full, *end]


def _cut_at_folder(path: str, room: int) -> str | None:
    """Return the longest end of a path that begins at a slash and fits, or None."""
    start = path.find("/", 1)
    while start >= 0:
        shown = CUT + path[start:]
        if measure_text(shown) <= room:
            return shown
        start = path.find("/", start + 1)
    return None


def _cut_name(path: str, room: int) -> str | None:
    """Return the longest end of a file's name that fits and begins outside of numbers, or None."""
    for cut in range(path.rfind("/") + 1 or 1, len(path) - 1):
        if path[cut - 1].isdigit() and path[cut].isdigit():
            continue
        shown = CUT + path[cut:]
        if measure_text(shown) <= room:
            return shown
    return None
