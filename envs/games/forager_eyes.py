"""Ray casting: distances from a point, along directions, to boxes and to discs.

All of it is elementwise and in float64, so that a row of a batch has the same bits as if it were computed alone.
"""

from __future__ import annotations

import numpy as np

from torso.arrays import Array


def disc_distances(dx: Array, dy: Array, cos: Array, sin: Array, radius: float) -> Array:
    """Distance along each ray to where the discs begin.

    dx, dy: [E, I], from the rays' origin to the discs' centres; the origin lies in no disc. cos, sin: [E, K], unit
    directions. Returns [E, K, I]; inf where the ray misses the disc.
    """
    outside = dx * dx + dy * dy - radius * radius
    along = (
        cos[:, :, None] * dx[:, None, :] + sin[:, :, None] * dy[:, None, :]
    )  # [E, K, I], up to the foot of the perpendicular
    # With |p|^2 - along^2 the foot's squared distance, half a chord is sqrt(along^2 - (|p|^2 - r^2)). The sign that
    # along * |along| keeps makes it negative for the discs behind as well as for those beside the ray.
    half_chord_squared = along * np.abs(along) - outside[:, None, :]
    hit = half_chord_squared >= 0
    begin: Array = np.where(hit, along - np.sqrt(np.maximum(half_chord_squared, 0.0)), np.inf)
    return begin


def box_intervals(x: Array, y: Array, inverse_cos: Array, inverse_sin: Array, boxes: Array) -> tuple[Array, Array]:
    """Distances along each ray at which the boxes begin and end (the slab method).

    x, y: [E], the rays' origin. inverse_cos, inverse_sin: [E, K], 1 / the directions, finite. boxes: [4, B], rows
    x_low, y_low, x_high, y_high. Returns begin and end, [E, K, B]: the line along a ray meets a box where begin <= end,
    behind the origin where both are negative; an origin within the box has begin < 0 < end.
    """
    x_low, y_low, x_high, y_high = boxes[:, None, None, :]  # [1, 1, B] each
    x, y = x[:, None, None], y[:, None, None]
    by_cos, by_sin = inverse_cos[:, :, None], inverse_sin[:, :, None]
    x_one, x_other = (x_low - x) * by_cos, (x_high - x) * by_cos  # [E, K, B]
    y_one, y_other = (y_low - y) * by_sin, (y_high - y) * by_sin
    begin: Array = np.maximum(np.minimum(x_one, x_other), np.minimum(y_one, y_other))
    end: Array = np.minimum(np.maximum(x_one, x_other), np.maximum(y_one, y_other))
    return begin, end
