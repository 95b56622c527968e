"""A tally of attempts, such as crashes and lines, printed at the end of a test run."""

from collections import Counter

figures: Counter[str] = Counter()


def count(name: str, times: int = 1) -> None:
    """Add attempts to the tally."""
    figures[name] += times
