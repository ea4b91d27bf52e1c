"""Simulation of Forager: a walled room with agents and items, their motion, and the eyes' observations.

Lengths are in the agent's radii, angles in degrees, counter-clockwise from the x axis; y points up. Headings are whole
degrees, so all directions come from tables, and a room is bit-identical on every machine and in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from torso.arrays import Array
from torso.envs.games.forager_eyes import box_intervals, disc_distances
from torso.errors import ConfigError

ROOM_SIDE = 48.0
# x_low, y_low, x_high, y_high: four walls that jut into the room, one from each side. The room looks the same when it
# is turned by 90 degrees, and an agent fits through everywhere.
INNER_WALLS = ((15.0, 0.0, 16.0, 15.0), (33.0, 15.0, 48.0, 16.0), (32.0, 33.0, 33.0, 48.0), (0.0, 32.0, 15.0, 33.0))
AGENT_RADIUS = 1.0
ITEM_RADIUS = 0.8

FORWARD, FORWARD_LEFT, FORWARD_RIGHT, TURN_LEFT, TURN_RIGHT = range(5)
STRIDE = np.array([0.8, 0.72, 0.72, 0.2, 0.2])  # by action: agent radii a step
TURN = np.array([0, 6, -6, 15, -15])  # by action: degrees a step

WALL, FOOD, POISON = range(3)  # an eye's channels
_CHANNELS = np.arange(3)

_DRIFT_RADIUS = 1.2  # items circle slowly around the spot where they appeared
_DRIFT_PERIOD = 150  # steps
_DRIFT = _DRIFT_RADIUS * np.exp(2j * np.pi * np.arange(_DRIFT_PERIOD) / _DRIFT_PERIOD)
_DRIFT_X, _DRIFT_Y = np.ascontiguousarray(_DRIFT.real), np.ascontiguousarray(_DRIFT.imag)
_SPOT_GAP = 3.0  # between the spots of two items
_AGENT_GAP = 6.0  # between an agent and the spot of an item that appears
_MAX_ITEMS = 60  # more of them would leave few spots to appear in


@dataclass(frozen=True, kw_only=True)
class ForagerSettings:
    """Settings of Forager. Raises ``ConfigError`` for a value out of its range."""

    num_eyes: int = 9
    """Number of eyes, as in ConvNetJS's deep Q-learning demo."""
    fan_degrees: float = 120.0
    """Angle between the outermost eyes, about the 115 of the demo."""
    eye_range: float = 12.0
    """Range of an eye, from the agent's rim."""
    num_food: int = 16
    """Number of food items; with the strides: a random agent eats about 3 in 1,000 steps, as much poison as food."""
    num_poison: int = 16
    """Number of poison items."""
    inner_walls: bool = True
    """Whether four walls jut into the room."""
    forward_reward: float = 0.0
    """Reward of a step straight ahead, times 1 - the greatest proximity of a wall."""

    def __post_init__(self) -> None:
        _require_whole("num_eyes", self.num_eyes, 1, 180)
        _require_real("fan_degrees", self.fan_degrees, 0.0, 360.0)
        _require_real("eye_range", self.eye_range, 0.1, 2 * ROOM_SIDE)
        _require_whole("num_food", self.num_food, 0, _MAX_ITEMS)
        _require_whole("num_poison", self.num_poison, 0, _MAX_ITEMS)
        if self.num_food + self.num_poison > _MAX_ITEMS:
            raise ConfigError(
                f"num_food and num_poison must be at most {_MAX_ITEMS} together, got {self.num_food} and "
                f"{self.num_poison}; the room has no space for more"
            )
        if not isinstance(self.inner_walls, bool):
            raise ConfigError(f"inner_walls must be True or False, got {self.inner_walls!r}")
        _require_real("forward_reward", self.forward_reward, 0.0, 1.0)


def forager_settings(env_kwargs: Mapping[str, Any]) -> ForagerSettings:
    """Build settings from keyword arguments. Raises ``ConfigError`` for an unknown one."""
    known = [each.name for each in fields(ForagerSettings)]
    for name in env_kwargs:
        if name not in known:
            raise ConfigError(f"Forager has no setting {name!r}; its settings are {', '.join(known)}")
    return ForagerSettings(**env_kwargs)


class ForagerWorld:
    """``num_envs`` rooms side by side, each with an agent, food and poison. Arrays have a row a room."""

    def __init__(self, num_envs: int, settings: ForagerSettings) -> None:
        self.settings = settings
        num_items = settings.num_food + settings.num_poison
        self.x, self.y = np.full(num_envs, ROOM_SIDE / 2), np.full(num_envs, ROOM_SIDE / 2)
        self.heading = np.zeros(num_envs, np.int64)
        self.item_x, self.item_y = np.zeros((num_envs, num_items)), np.zeros((num_envs, num_items))  # the food first
        self.food_eaten, self.poison_eaten = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        self.num_steps = np.zeros(num_envs, np.int64)
        self.boxes = np.array([(0.0, 0.0, ROOM_SIDE, ROOM_SIDE), *(INNER_WALLS if settings.inner_walls else ())]).T
        self._spot_x, self._spot_y = np.zeros((num_envs, num_items)), np.zeros((num_envs, num_items))
        self._drift = np.zeros((num_envs, num_items), np.int64)  # how far each is on its circle, in steps
        self._heading_x, self._heading_y = _directions(np.zeros(1))
        half_fan = settings.fan_degrees / 2 if settings.num_eyes > 1 else 0.0
        self.eye_cos, self.eye_sin = _directions(np.linspace(half_fan, -half_fan, settings.num_eyes))
        self._eye_inverse_cos, self._eye_inverse_sin = 1 / self.eye_cos, 1 / self.eye_sin

    def begin(self, env: int, rng: np.random.Generator) -> None:
        """Begin an episode in one room: place the agent and every item at random positions from ``rng``."""
        self.x[env], self.y[env] = self._free_spot(rng, AGENT_RADIUS)
        self.heading[env] = rng.integers(360)
        self._spot_x[env] = self._spot_y[env] = np.inf
        for item in range(self.item_x.shape[1]):
            self._place(env, item, rng)
        self.food_eaten[env] = self.poison_eaten[env] = self.num_steps[env] = 0

    def move(self, actions: Array) -> None:
        """Move agents and items by one step; agents slide along walls. actions: [E] in 0..4."""
        self.num_steps += 1
        self._drift += 1
        self._drift %= _DRIFT_PERIOD
        self.item_x = self._spot_x + _DRIFT_X[self._drift]
        self.item_y = self._spot_y + _DRIFT_Y[self._drift]
        self.heading = (self.heading + TURN[actions]) % 360
        stride = STRIDE[actions]
        x = self.x + stride * self._heading_x[self.heading, 0]
        y = self.y + stride * self._heading_y[self.heading, 0]
        self.x, self.y = resolve_wall_collisions(x, y, self.boxes)

    def eat(self, active: Array, rngs: Sequence[np.random.Generator]) -> Array:
        """Eat the items that agents touch; each reappears elsewhere, by the room's own generator.

        active: bool [E]; nothing is eaten in the other rooms. Returns the rewards [E] float64: food less poison.
        """
        dx, dy = self.item_x - self.x[:, None], self.item_y - self.y[:, None]
        touched = (dx * dx + dy * dy < (AGENT_RADIUS + ITEM_RADIUS) ** 2) & active[:, None]
        if not touched.any():
            return np.zeros(len(self.x))
        food = touched[:, : self.settings.num_food].sum(axis=1)
        poison = touched[:, self.settings.num_food :].sum(axis=1)
        self.food_eaten += food
        self.poison_eaten += poison
        for env, item in np.argwhere(touched).tolist():
            self._place(env, item, rngs[env])
        rewards: Array = (food - poison).astype(np.float64)
        return rewards

    def ray_distances(self) -> Array:
        """Distances from the agent's centre along each eye's ray to wall, food and poison: [E, num_eyes, 3].

        The leftmost eye comes first. inf: the ray hits none.
        """
        cos, sin = self.eye_cos[self.heading], self.eye_sin[self.heading]  # [E, K]
        inverse_cos, inverse_sin = self._eye_inverse_cos[self.heading], self._eye_inverse_sin[self.heading]
        begin, end = box_intervals(self.x, self.y, inverse_cos, inverse_sin, self.boxes)
        wall = np.where((begin <= end) & (begin > 0), begin, np.inf)
        wall[:, :, 0] = end[:, :, 0]  # the room's walls are seen from within
        items = disc_distances(self.item_x - self.x[:, None], self.item_y - self.y[:, None], cos, sin, ITEM_RADIUS)
        num_food = self.settings.num_food
        distances = np.empty((*cos.shape, 3))
        wall.min(axis=2, out=distances[:, :, WALL])
        items[:, :, :num_food].min(axis=2, initial=np.inf, out=distances[:, :, FOOD])
        items[:, :, num_food:].min(axis=2, initial=np.inf, out=distances[:, :, POISON])
        return distances

    def observe(self) -> Array:
        """Observations of the eyes: float32 [E, num_eyes, 3] in [0, 1], proximity of the nearest thing in its channel.

        1 - distance from the rim / eye_range; 0 in the other channels, and in all where nothing is within range.
        """
        distances = self.ray_distances()
        nearest = distances.argmin(axis=2)[:, :, None] == _CHANNELS
        proximity = 1 - (distances - AGENT_RADIUS) / self.settings.eye_range
        observations: Array = np.where(nearest, np.minimum(np.maximum(proximity, 0.0), 1.0), 0.0).astype(np.float32)
        return observations

    def _place(self, env: int, item: int, rng: np.random.Generator) -> None:
        """Place an item at a random free position."""
        spots_x, spots_y = self._spot_x[env], self._spot_y[env]
        spots_x[item] = spots_y[item] = np.inf
        while True:
            x, y = self._free_spot(rng, ITEM_RADIUS + _DRIFT_RADIUS)
            if math.hypot(x - self.x[env], y - self.y[env]) < _AGENT_GAP:
                continue
            if ((spots_x - x) ** 2 + (spots_y - y) ** 2).min() >= _SPOT_GAP**2:
                break
        spots_x[item], spots_y[item] = x, y
        phase = int(rng.integers(_DRIFT_PERIOD))
        self._drift[env, item] = phase
        self.item_x[env, item], self.item_y[env, item] = x + _DRIFT_X[phase], y + _DRIFT_Y[phase]

    def _free_spot(self, rng: np.random.Generator, margin: float) -> tuple[float, float]:
        """Draw a uniform point at least ``margin`` away from all walls."""
        while True:
            x = margin + (ROOM_SIDE - 2 * margin) * rng.random()
            y = margin + (ROOM_SIDE - 2 * margin) * rng.random()
            if all(
                math.hypot(max(x_low - x, 0, x - x_high), max(y_low - y, 0, y - y_high)) >= margin
                for x_low, y_low, x_high, y_high in self.boxes.T[1:].tolist()
            ):
                return x, y


def resolve_wall_collisions(x: Array, y: Array, boxes: Array) -> tuple[Array, Array]:
    """Resolve collisions with walls: the nearest places to ``x, y`` [E] where an agent fits.

    A disc that overlaps a wall is pushed out at right angles.
    boxes: [4, B], the room first. The centres are in none of the others, which a stride shorter than the agent's
    radius ensures, and no two of those are so close that one agent meets both.
    """
    room = boxes[:, 0]
    x = np.minimum(np.maximum(x, room[0] + AGENT_RADIUS), room[2] - AGENT_RADIUS)
    y = np.minimum(np.maximum(y, room[1] + AGENT_RADIUS), room[3] - AGENT_RADIUS)
    x_low, y_low, x_high, y_high = boxes[:, 1:]
    dx = x[:, None] - np.minimum(np.maximum(x[:, None], x_low), x_high)  # [E, B - 1], from the wall's nearest point
    dy = y[:, None] - np.minimum(np.maximum(y[:, None], y_low), y_high)
    squared = dx * dx + dy * dy
    meets = squared < AGENT_RADIUS**2
    if meets.any():
        longer = np.where(meets, AGENT_RADIUS / np.sqrt(np.where(meets, squared, 1.0)) - 1, 0.0)
        x = x + (dx * longer).sum(axis=1)  # of which one term at most is not 0
        y = y + (dy * longer).sum(axis=1)
    return x, y


def _directions(offsets: Array) -> tuple[Array, Array]:
    """Tables of cos and sin of heading + offset, [360, len(offsets)]; never 0, so that each has an inverse."""
    angles = np.deg2rad(np.arange(360)[:, None] + offsets)
    cos, sin = np.cos(angles), np.sin(angles)
    for table in (cos, sin):
        table[np.abs(table) < 1e-12] = 1e-12
    return cos, sin


def _require_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _require_real(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
