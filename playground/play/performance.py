"""Performance: one game on the page, step by step, played by a policy, at random or by hand."""

from __future__ import annotations

import asyncio
import io
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torso.checks import number
from torso.errors import ConfigError
from torso.playground.messages import SendToTab
from torso.playground.play.policies import Judgement, StagePolicy

if TYPE_CHECKING:
    from torso.envs.vector.world import World

USUAL_FPS = 30.0  # of envs that do not say how fast they are shown
MOST_UNSEEN = 2  # frames that are on their way to a tab
REST_S = 1.0  # after an episode's end, at the env's own speed
LEAST_S = 0.002  # of a step at full speed, so that others have their turn
SPEEDS = (0.125, 64.0)


@dataclass
class Controls:
    """Settings that the visitor changes while a game goes on."""

    speed: float = 1.0
    """Times the env's own speed."""
    epsilon: float = 0.0
    """Probability of a random action in place of the policy's."""
    is_paused: bool = False
    is_hidden: bool = False
    """Whether the page shows something else."""
    is_by_hand: bool = False
    pressed: int | None = None
    """The action that is pressed, from 0."""
    single_steps: int = 0
    """Steps that are due although the game is paused."""
    is_again: bool = False
    """Whether a new episode is asked for."""


@dataclass(frozen=True)
class Choice:
    """Action that is about to be taken, from 0. ``by``: "policy" or "chance"; "end" and no action where it is over."""

    action: int | None
    by: str


@dataclass
class EpisodeTally:
    """State of an episode: its steps and return so far, and the returns of those before."""

    episode: int = 1
    steps: int = 0
    total: float = 0.0
    finished: list[float] = field(default_factory=list)
    """Returns of the episodes that have ended."""


class Performance:
    """Game of one tab, in an env that has a thread of its own. ``policy`` None: actions are drawn at random.

    `run` plays until it is cancelled; frames, values and returns go to the tab as ``frame`` messages, and are left out
    while it has not seen the last ones.
    """

    def __init__(self, world: World, policy: StagePolicy | None, send: SendToTab, *, seed: int) -> None:
        self.controls = Controls()
        self._world = world
        self._policy = policy
        self._send = send
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._thread = ThreadPoolExecutor(1, "torso-play")
        self._changed = asyncio.Event()
        self._serial, self._seen = 0, 0
        self._tally = EpisodeTally()
        self._moments: deque[float] = deque(maxlen=60)  # of the last steps
        self._names: list[str] = []

    @property
    def num_actions(self) -> int:
        """Number of actions; 0 before the env is made."""
        return len(self._names)

    def changed(self) -> None:
        """Take note that the controls have changed."""
        self._changed.set()

    def seen(self, serial: int) -> None:
        """Take note that the tab has shown a frame."""
        self._seen = max(self._seen, min(serial, self._serial))
        self._changed.set()

    def take_policy(self, policy: StagePolicy) -> None:
        """Let another policy play on, from the next step."""
        self._policy = policy

    async def run(self) -> None:
        """Play until cancelled. Raises EnvError, or as the policy does."""
        try:
            await self._open()
            while True:
                await self._play_episode()
        finally:
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    # -- the env, on its thread ------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._obs, self._infos = await self._in_thread(self._make)
        await self._send(
            "began",
            game=self._world.name,
            actions=self._names,
            idle=self._idle,
            fps=self._fps,
            has_policy=self._policy is not None,
        )

    def _make(self) -> tuple[NDArray[Any], dict[str, Any]]:
        from torso.envs import action_masks, action_start
        from torso.envs.vector.action_names import action_names

        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
        self._action_masks = action_masks
        self._envs = envs = self._world.make([self._seed], render_mode="rgb_array")
        self._names = list(action_names(envs))
        self._idle = self._names.index("NOOP") if "NOOP" in self._names else None
        self._first = action_start(envs.single_action_space)
        self._fps = float((envs.metadata or {}).get("render_fps") or USUAL_FPS)
        found: tuple[NDArray[Any], dict[str, Any]] = envs.reset()
        return found

    def _close(self) -> None:
        if hasattr(self, "_envs"):
            self._envs.close()

    def _step(self, action: int) -> tuple[float, bool]:
        self._obs, rewards, terminated, truncated, self._infos = self._envs.step(np.array([action + self._first]))
        return float(rewards[0]), bool(terminated[0] or truncated[0])

    def _reset(self) -> None:
        self._obs, self._infos = self._envs.reset()

    def _picture(self) -> bytes:
        from PIL import Image

        frames: Any = self._envs.render()
        with io.BytesIO() as file:
            Image.fromarray(frames[0]).save(file, "PNG", compress_level=1)
            return file.getvalue()

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    # -- an episode ------------------------------------------------------------------------------------------------

    async def _play_episode(self) -> None:
        state: tuple[Any, ...] = ()
        is_over = False
        due = asyncio.get_running_loop().time()
        while not is_over:
            judged = None if self._policy is None else await self._policy.judge(self._obs, state, self._thread)
            mask = self._action_masks(self._infos, 1, len(self._names))
            choice = self._choose(judged, mask)
            is_shown = await self._show(judged, choice)
            while not self._goes_on():
                await self._wait_for_change()
                is_shown = is_shown or await self._show(judged, choice)
            if self.controls.is_again:
                break
            due = await self._pace(due)
            state = () if judged is None else judged.state
            reward, is_over = await self._in_thread(self._step, self._action(choice, mask))
            self._tally.steps += 1
            self._tally.total += reward
            self._moments.append(asyncio.get_running_loop().time())
        await self._end_episode(is_over)

    async def _end_episode(self, is_over: bool) -> None:
        if is_over:
            self._tally.finished.append(self._tally.total)
            is_shown = await self._show(None, Choice(None, "end"), is_over=True)
            while not is_shown:
                await self._wait_for_change()
                is_shown = await self._show(None, Choice(None, "end"), is_over=True)
            await asyncio.sleep(REST_S / max(1.0, self.controls.speed))
        self.controls.is_again = False
        await self._in_thread(self._reset)
        self._tally.episode += 1
        self._tally.steps, self._tally.total = 0, 0.0

    def _choose(self, judged: Judgement | None, mask: NDArray[np.bool_] | None) -> Choice:
        """Choose the policy's action, or with probability epsilon any that is legal."""
        from torso.nets.prediction.choosing import best_legal, random_legal

        if judged is not None and self._rng.random() >= self.controls.epsilon:
            return Choice(int(best_legal(judged.values[np.newaxis], mask)[0]), "policy")
        if mask is None:
            return Choice(int(self._rng.integers(len(self._names))), "chance")
        return Choice(int(random_legal(mask, self._rng)[0]), "chance")

    def _action(self, choice: Choice, mask: NDArray[np.bool_] | None) -> int:
        """Return the action to take now: the one that is pressed, where the visitor plays, or the chosen one."""
        pressed = self._pressed()
        if pressed is not None and (mask is None or mask[0, pressed]):
            return pressed
        assert choice.action is not None  # noqa: S101 - only an end's is
        return choice.action

    def _pressed(self) -> int | None:
        if not self.controls.is_by_hand:
            return None
        return self._idle if self.controls.pressed is None else self.controls.pressed

    def _goes_on(self) -> bool:
        """Whether the game goes on now: a pause holds it, and a hand that presses nothing where that is no action."""
        if self.controls.is_again:
            return True
        if self.controls.is_hidden:
            return False
        if self.controls.is_paused:
            if not self.controls.single_steps:
                return False
            self.controls.single_steps -= 1
            return True
        return not self.controls.is_by_hand or self._pressed() is not None

    async def _wait_for_change(self) -> None:
        self._moments.clear()
        self._changed.clear()
        await self._changed.wait()

    async def _pace(self, due: float) -> float:
        """Wait until the step is due; return the next one's time."""
        loop = asyncio.get_running_loop()
        period = 1 / (self._fps * self.controls.speed)
        due = max(due + period, loop.time() - period)
        await asyncio.sleep(max(due - loop.time(), LEAST_S))
        return due

    async def _show(self, judged: Judgement | None, choice: Choice, *, is_over: bool = False) -> bool:
        """Send the env's frame, unless the tab is behind or hidden; return whether it was sent."""
        if self._serial - self._seen >= MOST_UNSEEN or self.controls.is_hidden:
            return False
        picture = await self._in_thread(self._picture)
        found = None
        if judged is not None and self._policy is not None:
            found = await self._policy.distributions(self._obs, self._thread)
        self._serial += 1
        await self._send(
            "frame",
            picture,
            serial=self._serial,
            values=None if judged is None else _numbers(judged.values),
            action=choice.action,
            by=choice.by,
            pressed=self._pressed(),
            over=is_over,
            episode=self._tally.episode,
            steps=self._tally.steps,
            total=self._tally.total,
            finished=self._tally.finished[-100:],
            rate=self._rate(),
            returns=None
            if found is None
            else {"low": found.low, "high": found.high, "rows": [_numbers(row) for row in found.probabilities]},
        )
        return True

    def _rate(self) -> float:
        """Steps/s of late; 0 where there were none."""
        if len(self._moments) < 2:
            return 0.0
        return (len(self._moments) - 1) / max(self._moments[-1] - self._moments[0], 1e-9)


def _numbers(values: NDArray[np.float32]) -> list[float | None]:
    """Round values for a message; None where one is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def checked_speed(speed: object) -> float:
    """Check a speed that a tab asks for. ConfigError where it is out of its range."""
    found, (low, high) = number("speed", speed), SPEEDS
    if not low <= found <= high:
        raise ConfigError(f"speed must be from {low} to {high}, got {found}")
    return found
