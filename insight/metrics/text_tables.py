"""Plain-text tables and number formatting."""

from __future__ import annotations

import math
from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of equal length as aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def figure(value: float | None) -> str:
    """Format a number with four decimals, or in four digits where those would hide it; None as a dash."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-2 <= abs(value) < 1e4 else f"{value:.4g}"


def formatted(value: float | None, spec: str) -> str:
    """Format a number by a format specification; "undefined" for None and for what is not finite."""
    return "undefined" if value is None or not math.isfinite(value) else format(value, spec)
