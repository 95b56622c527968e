"""The chart for the README: events per second as bars on a logarithmic axis, in SVG.

Drawing only. The figures come from a run.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 860
LEFT, RIGHT, TOP, BOTTOM = 360, 130, 80, 50
BAR, GAP = 22, 12

INK = "#6e7781"  # reads on white and on black
BARS = "#8c959f"
OWN_BARS = "#2da44e"


class Bar(NamedTuple):
    """One contender."""

    label: str
    rate: float
    remark: str
    is_own: bool


def draw(title: str, subtitles: Sequence[str], bars: Sequence[Bar]) -> str:
    """Draw the bars, in the order given, each from the first decade of the axis."""
    first = math.floor(math.log10(min(bar.rate for bar in bars) * 0.8))
    last = math.log10(max(bar.rate for bar in bars))

    def across(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(rate) - first) / (last - first)

    base = TOP + len(bars) * (BAR + GAP)
    height = base + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        f'<text x="0" y="20" font-size="17" font-weight="bold">{escape(title)}</text>',
        *(f'<text x="0" y="{41 + 19 * place}">{escape(line)}</text>' for place, line in enumerate(subtitles)),
    ]
    for decade in range(first, math.floor(last) + 1):
        x = across(10**decade)
        parts += [
            f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{base}" stroke="{INK}" stroke-opacity="0.35"/>',
            f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{10**decade:,}</text>',
        ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{base + 38}" text-anchor="middle">events per second, logarithmic</text>')
    for place, bar in enumerate(bars):
        y = TOP + place * (BAR + GAP) + GAP / 2
        weight, fill = (' font-weight="bold"', OWN_BARS) if bar.is_own else ("", BARS)
        end = across(bar.rate)
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 16:.1f}" text-anchor="end"{weight}>{escape(bar.label)}</text>',
            f'<rect x="{LEFT}" y="{y:.1f}" width="{end - LEFT:.1f}" height="{BAR}" rx="2" fill="{fill}"/>',
            f'<text x="{end + 8:.1f}" y="{y + 16:.1f}"{weight}>{bar.rate:,.0f} · {escape(bar.remark)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
