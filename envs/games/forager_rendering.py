"""Rendering of Forager: the room from above, the agent, its eyes' rays, and the score."""

from __future__ import annotations

import math

import cv2
import numpy as np

from torso.arrays import Array
from torso.envs.games.forager_world import AGENT_RADIUS, FOOD, ITEM_RADIUS, POISON, ROOM_SIDE, WALL, ForagerWorld

Colour = tuple[int, int, int]

FRAME_SHAPE = (512, 480, 3)  # the score bar, and below it the room
_TOP, _FRAME = 40, 8  # pixels: where the room begins, and how thick its outer walls are drawn
_SCALE = (FRAME_SHAPE[1] - 2 * _FRAME) / ROOM_SIDE  # pixels an agent's radius
_SUBPIXEL_BITS = 4

_FLOOR, _TILES, _WALLS, _WALL_EDGE = (246, 244, 238), (239, 236, 228), (92, 104, 122), (70, 80, 97)
_TEXT, _FAINT_TEXT, _WHITE = (31, 41, 55), (120, 126, 138), (255, 255, 255)
_FOOD, _FOOD_EDGE, _POISON, _POISON_EDGE = (222, 62, 57), (168, 38, 36), (66, 160, 84), (36, 108, 54)
_AGENT, _AGENT_EDGE, _NO_HIT = (47, 109, 179), (27, 70, 122), (178, 180, 186)
_RAYS = {WALL: (130, 142, 160), FOOD: _FOOD, POISON: _POISON}


def draw_forager(world: ForagerWorld, env: int) -> Array:
    """Draw one room as uint8 [512, 480, 3]."""
    picture = _empty_room(world)
    _draw_rays(picture, world, env)
    items = list(zip(world.item_x[env].tolist(), world.item_y[env].tolist(), strict=True))
    for x, y in items[: world.settings.num_food]:
        _draw_food(picture, x, y)
    for x, y in items[world.settings.num_food :]:
        _draw_poison(picture, x, y)
    _draw_agent(picture, float(world.x[env]), float(world.y[env]), int(world.heading[env]))
    _draw_score(picture, int(world.food_eaten[env]), int(world.poison_eaten[env]), int(world.num_steps[env]))
    return picture


def _empty_room(world: ForagerWorld) -> Array:
    picture: Array = np.empty(FRAME_SHAPE, np.uint8)
    picture[:] = _FLOOR
    side = ROOM_SIDE / 8
    for column in range(8):
        for row in range(column % 2, 8, 2):
            _box(picture, column * side, row * side, (column + 1) * side, (row + 1) * side, _TILES)
    left, top = _FRAME, _TOP
    right, bottom = FRAME_SHAPE[1] - _FRAME, FRAME_SHAPE[0] - _FRAME
    picture[:top] = picture[bottom:] = _WALLS
    picture[:, :left] = picture[:, right:] = _WALLS
    cv2.rectangle(picture, (left - 1, top - 1), (right, bottom), _WALL_EDGE, 1)
    for x_low, y_low, x_high, y_high in world.boxes.T[1:].tolist():
        _box(picture, x_low, y_low, x_high, y_high, _WALLS)
    picture[: _TOP - _FRAME] = _WHITE
    return picture


def _draw_rays(picture: Array, world: ForagerWorld, env: int) -> None:
    """Draw each eye's ray to the item it hits, in that item's colour, or faintly to the end of its range."""
    distances = world.ray_distances()[env]
    x, y, heading = float(world.x[env]), float(world.y[env]), int(world.heading[env])
    reach = AGENT_RADIUS + world.settings.eye_range
    faint = picture.copy()
    ends = []
    for eye in range(len(distances)):
        cos, sin = float(world.eye_cos[heading, eye]), float(world.eye_sin[heading, eye])
        channel = int(distances[eye].argmin())
        distance = min(float(distances[eye, channel]), reach)
        colour = _RAYS[channel] if distance < reach else _NO_HIT
        end = (x + distance * cos, y + distance * sin)
        width = 1 if colour == _NO_HIT else 2
        cv2.line(faint, _at(x, y), _at(*end), colour, width, cv2.LINE_AA, _SUBPIXEL_BITS)
        if colour != _NO_HIT:
            ends.append((*end, colour))
    cv2.addWeighted(faint, 0.6, picture, 0.4, 0, picture)
    for end_x, end_y, colour in ends:
        _disc(picture, end_x, end_y, 0.25, colour)


def _draw_food(picture: Array, x: float, y: float) -> None:
    _disc(picture, x, y, ITEM_RADIUS, _FOOD_EDGE)
    _disc(picture, x, y, ITEM_RADIUS - 0.13, _FOOD)
    _disc(picture, x - 0.25, y + 0.27, 0.17, (246, 160, 152))


def _draw_poison(picture: Array, x: float, y: float) -> None:
    _disc(picture, x, y, ITEM_RADIUS, _POISON_EDGE)
    _disc(picture, x, y, ITEM_RADIUS - 0.13, _POISON)
    arm = 0.3
    for slope in (-1, 1):
        start, end = _at(x - arm, y - slope * arm), _at(x + arm, y + slope * arm)
        cv2.line(picture, start, end, _WHITE, 2, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_agent(picture: Array, x: float, y: float, heading: int) -> None:
    cos, sin = math.cos(math.radians(heading)), math.sin(math.radians(heading))
    tip = 1.55 * AGENT_RADIUS
    corners = [(tip * cos, tip * sin)] + [
        (0.95 * math.cos(math.radians(heading + side)), 0.95 * math.sin(math.radians(heading + side)))
        for side in (50, -50)
    ]
    nose = np.array([_at(x + dx, y + dy) for dx, dy in corners], np.int32)
    cv2.fillPoly(picture, [nose], _AGENT_EDGE, cv2.LINE_AA, _SUBPIXEL_BITS)
    _disc(picture, x, y, AGENT_RADIUS, _AGENT_EDGE)
    _disc(picture, x, y, AGENT_RADIUS - 0.15, _AGENT)
    for side in (38, -38):
        angle = math.radians(heading + side)
        _disc(picture, x + 0.55 * math.cos(angle), y + 0.55 * math.sin(angle), 0.27, _WHITE)
        _disc(picture, x + 0.63 * math.cos(angle), y + 0.63 * math.sin(angle), 0.14, _TEXT)


def _draw_score(picture: Array, food: int, poison: int, num_steps: int) -> None:
    middle = (_TOP - _FRAME) / 2
    y = ROOM_SIDE + (_TOP - middle) / _SCALE  # of the score bar, in the room's coordinates
    _draw_food(picture, 1.0, y)
    _put_text(picture, str(food), 32, _FOOD_EDGE)
    _draw_poison(picture, 8.5, y)
    _put_text(picture, str(poison), 105, _POISON_EDGE)
    _put_text(picture, f"score {food - poison:+d}", 184, _TEXT)
    _put_text(picture, f"step {num_steps}", 384, _FAINT_TEXT)


def _put_text(picture: Array, text: str, left: int, colour: Colour) -> None:
    cv2.putText(picture, text, (left, _TOP - _FRAME - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def _box(picture: Array, x_low: float, y_low: float, x_high: float, y_high: float, colour: Colour) -> None:
    (left, bottom), (right, top) = _at(x_low, y_low), _at(x_high, y_high)
    left, right, top, bottom = (round(each / 2**_SUBPIXEL_BITS) for each in (left, right, top, bottom))
    picture[top:bottom, left:right] = colour


def _disc(picture: Array, x: float, y: float, radius: float, colour: Colour) -> None:
    pixels = round(radius * _SCALE * 2**_SUBPIXEL_BITS)
    cv2.circle(picture, _at(x, y), pixels, colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _at(x: float, y: float) -> tuple[int, int]:
    """Convert a position in the room to picture coordinates, in 1/16 pixels."""
    one = 2**_SUBPIXEL_BITS
    return round((_FRAME + x * _SCALE) * one), round((_TOP + (ROOM_SIDE - y) * _SCALE) * one)
