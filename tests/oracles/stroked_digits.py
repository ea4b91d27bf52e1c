"""Digits made by strokes, as a hand makes them: paths on a unit square, bent, slanted, sized and placed at random."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of an ellipse's arc; degrees, clockwise from the right, as y points down."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


FORMS: dict[int, list[list[list[tuple[float, float]]]]] = {
    0: [[arc(0.5, 0.5, 0.32, 0.5, -90, 270)], [arc(0.5, 0.5, 0.4, 0.48, -60, 300)]],
    1: [[[(0.5, 0.0), (0.5, 1.0)]], [[(0.3, 0.2), (0.52, 0.0), (0.52, 1.0)]]],
    2: [
        [[*arc(0.5, 0.28, 0.32, 0.28, 190, 380), (0.16, 1.0), (0.88, 1.0)]],
        [[*arc(0.5, 0.27, 0.34, 0.27, 200, 390), (0.2, 0.96), (0.5, 0.94), (0.9, 0.98)]],
    ],
    3: [
        [[*arc(0.46, 0.25, 0.3, 0.25, 200, 450), *arc(0.46, 0.74, 0.34, 0.26, 270, 510)]],
        [[(0.15, 0.02), (0.8, 0.02), (0.42, 0.42), *arc(0.44, 0.7, 0.36, 0.3, 280, 510)]],
    ],
    4: [
        [[(0.62, 0.0), (0.12, 0.66), (0.9, 0.66)], [(0.66, 0.35), (0.66, 1.0)]],
        [[(0.2, 0.0), (0.16, 0.52), (0.84, 0.52)], [(0.8, 0.02), (0.78, 1.0)]],
    ],
    5: [
        [[(0.82, 0.0), (0.24, 0.0), (0.2, 0.42), *arc(0.46, 0.68, 0.34, 0.31, 230, 500)]],
        [[(0.24, 0.04), (0.22, 0.44), *arc(0.46, 0.69, 0.34, 0.3, 235, 500)], [(0.24, 0.02), (0.84, 0.0)]],
    ],
    6: [
        [[(0.66, 0.0), (0.36, 0.3), (0.2, 0.6), *arc(0.5, 0.72, 0.3, 0.27, 180, 540)]],
        [[*arc(0.62, 0.5, 0.42, 0.5, 280, 180), *arc(0.5, 0.72, 0.3, 0.28, 180, 540)]],
    ],
    7: [[[(0.14, 0.02), (0.84, 0.02), (0.38, 1.0)]], [[(0.14, 0.06), (0.86, 0.0), (0.6, 0.45), (0.44, 1.0)]]],
    8: [[[*arc(0.5, 0.25, 0.26, 0.25, 90, 450), *arc(0.5, 0.76, 0.32, 0.25, -90, 270)]]],
    9: [
        [[*arc(0.48, 0.28, 0.3, 0.28, 0, 360), (0.76, 0.6), (0.68, 1.0)]],
        [[*arc(0.48, 0.27, 0.3, 0.27, -20, 340), (0.78, 0.3), (0.78, 1.0)]],
    ],
}


def draw_digit(digit: int, rng: np.random.Generator, side: int = 336) -> bytes:
    """Draw a digit on white paper, as the page's sheet is: a PNG of side x side pixels."""
    forms = FORMS[digit]
    strokes = [np.array(stroke) for stroke in forms[rng.integers(len(forms))]]
    height = rng.uniform(0.25, 0.85) * side
    width = height * rng.uniform(0.5, 0.8)
    thickness = float(rng.uniform(0.05, 0.17) * height)
    slant, turn = rng.uniform(-0.25, 0.3), np.radians(rng.uniform(-8, 8))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    placed = []
    for stroke in strokes:
        points = (stroke + rng.normal(0, 0.012, stroke.shape) - 0.5) * [width, height]
        points[:, 0] -= slant * points[:, 1]
        placed.append(points @ turned.T)
    everything = np.concatenate(placed)
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = thickness / 2 + 2
    place = rng.uniform(margin - low, np.maximum(side - margin - high, margin - low + 1e-6))
    scale = 4  # drawn larger, for smooth edges
    image = Image.new("L", (side * scale, side * scale), 255)
    pen = ImageDraw.Draw(image)
    radius = thickness * scale / 2
    for stroke in placed:
        points = (stroke + place) * scale
        pen.line([tuple(point) for point in points], fill=20, width=round(2 * radius), joint="curve")
        for x, y in points:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=20)
    return png(np.asarray(image.resize((side, side), Image.Resampling.BOX)))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode gray pixels [height, width]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
