"""A tally of attempts, such as crashes and lines; the run's end prints it."""

from collections import Counter

figures: Counter[str] = Counter()


def count(what: str, times: int = 1) -> None:
    """Add attempts to the tally."""
    figures[what] += times
