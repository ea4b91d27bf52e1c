"""Games over a tab's socket, against the env and the model themselves; hands, chance, pauses."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from playground_process import Playground
from playground_tabs import Tab, with_tabs

from torso.envs import make_vector
from torso.envs.vector.world import World
from torso.errors import ConfigError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, Predictor, build_network, save_model
from torso.nets.specs.heads import ScalarHeadSpec
from torso.playground.messages import TabMessage
from torso.playground.play.performance import Performance
from torso.playground.play.player import Player
from torso.playground.play.policies import LocalPolicy
from torso.playground.play.repertoire import GAMES

CARTPOLE = Path(__file__).parents[2] / "playground" / "models" / "cartpole"


class Stage:
    """Game of a tab that is watched; it says that it has seen each frame."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    async def begin(self, game: str, model: str | None, seed: int | None = None) -> dict[str, Any]:
        await self.tab.receive("repertoire", "play")
        await self.start(game, model, seed)
        return (await self.tab.receive("began", "play"))[0]

    async def start(self, game: str, model: str | None, seed: int | None = None) -> None:
        await self.tab.say("play", "start", game=game, model=model, seed=seed)

    async def frame(self) -> tuple[dict[str, Any], np.ndarray]:
        fields, body = await self.tab.receive("frame", "play")
        await self.tab.say("play", "seen", serial=fields["serial"])
        return fields, np.asarray(Image.open(io.BytesIO(body)))


def trajectory(seed: int, steps: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Pictures, values and returns of CartPole by the model, made without the playground."""
    envs: Any = make_vector("CartPole-v1", 1, [seed], render_mode="rgb_array")
    predictor = Predictor.load(CARTPOLE)
    obs, _ = envs.reset()
    found, total = [], 0.0
    for _ in range(steps):
        values = predictor.run(predictor.prepare(obs))
        found.append((np.asarray(envs.render()[0]), values[0], total))
        obs, rewards, *_ = envs.step(values.argmax(axis=1))
        total += float(rewards[0])
    envs.close()
    return found


def test_a_policys_game_is_the_envs_and_the_models_own(playground: Playground) -> None:
    expected = trajectory(seed=7, steps=60)

    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        began = await stage.begin("CartPole-v1", "cartpole", 7)
        assert (began["actions"], began["idle"], began["has_policy"]) == (["LEFT", "RIGHT"], None, True)
        steps = []
        while not steps or steps[-1] < 40:
            fields, picture = await stage.frame()
            steps.append(fields["steps"])
            own_picture, values, total = expected[fields["steps"]]
            np.testing.assert_array_equal(picture, own_picture)
            np.testing.assert_allclose(fields["values"], values, rtol=2e-4)
            assert fields["total"] == total
            assert (fields["action"], fields["by"]) == (int(values.argmax()), "policy")
            returns = fields["returns"]
            rows = np.array(returns["rows"])
            np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-3)
            width = (returns["high"] - returns["low"]) / rows.shape[1]
            middles = returns["low"] + width * (np.arange(rows.shape[1]) + 0.5)
            np.testing.assert_allclose(rows @ middles, values, atol=width)
        assert steps == sorted(steps)

    with_tabs(playground, test)


def test_the_repertoire_has_policies_and_plain_games(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        found, _ = await tab.receive("repertoire", "play")
        assert {(policy["name"], policy["game"]) for policy in found["policies"]} == {
            ("cartpole", "CartPole-v1"),
            ("forager", "torso/Forager-v0"),
        }
        assert {game["id"] for game in found["games"]} == set(GAMES)

    with_tabs(playground, test)


def test_chance_a_hand_a_pause_and_single_steps(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        await stage.begin("CartPole-v1", "cartpole", 3)
        await tab.say("play", "epsilon", epsilon=1.0)
        while (await stage.frame())[0]["by"] != "chance":
            pass
        await tab.say("play", "epsilon", epsilon=0.0)
        fields, _ = await stage.frame()
        while fields["by"] != "policy":
            fields, _ = await stage.frame()
        await tab.say("play", "pause", on=True)
        last = await last_frame(stage, fields)
        for step in range(1, 4):
            await tab.say("play", "step")
            assert (await stage.frame())[0]["steps"] == last["steps"] + step
        await tab.say("play", "again")
        fields, _ = await stage.frame()
        assert (fields["steps"], fields["total"], fields["episode"]) == (0, 0.0, last["episode"] + 1)
        await tab.say("play", "pause", on=False)
        await tab.say("play", "hand", on=True)
        waiting = await last_frame(stage, fields)  # CartPole has no action that does nothing
        await tab.say("play", "press", action=1)
        fields, _ = await stage.frame()
        assert fields["pressed"] == 1
        while not fields["over"]:  # always to the right, which the policy would not do
            fields, _ = await stage.frame()
        assert fields["steps"] - waiting["steps"] < 15
        assert fields["finished"][-1] == fields["total"]
        await tab.say("play", "hand", on=False)
        while fields["steps"] < 30 or fields["over"]:
            fields, _ = await stage.frame()
        assert fields["pressed"] is None

    with_tabs(playground, test)


async def last_frame(stage: Stage, *known: dict[str, Any]) -> dict[str, Any]:
    """The frame at which a game stands; ``known``: the one before."""
    found = [*known]
    with contextlib.suppress(TimeoutError):
        while True:
            found.append((await asyncio.wait_for(stage.frame(), 1.0))[0])
    return found[-1]


@pytest.mark.parametrize(
    ("game", "shape"),
    [
        ("torso/Forager-v0", (512, 480, 3)),
        ("ALE/Pong-v5", (210, 160, 3)),
        ("MinAtar/SpaceInvaders-v1", (400, 400, 3)),
    ],
)
def test_every_kind_of_game_is_shown(playground: Playground, game: str, shape: tuple[int, ...]) -> None:
    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        began = await stage.begin(game, None, 0)
        assert not began["has_policy"]
        await tab.say("play", "speed", speed=4.0)
        pictures = []
        for _ in range(12):
            fields, picture = await stage.frame()
            assert (fields["values"], fields["returns"], fields["by"]) == (None, None, "chance")
            pictures.append(picture)
        assert {picture.shape for picture in pictures} == {shape}
        assert any((picture != pictures[0]).any() for picture in pictures[1:])

    with_tabs(playground, test)


def test_a_hidden_game_stands_still_and_a_closed_tab_ends_its_thread(playground: Playground) -> None:
    def num_threads() -> int:
        return len(list(Path(f"/proc/{playground.process.pid}/task").iterdir()))

    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        await stage.begin("CartPole-v1", "cartpole", 5)
        known, _ = await stage.frame()
        await tab.say("play", "hide", on=True)
        before = await last_frame(stage, known)
        await asyncio.sleep(0.5)
        await tab.say("play", "hide", on=False)
        fields, _ = await stage.frame()
        assert fields["steps"] <= before["steps"] + 2
        with_game = num_threads()
        await tab.socket.close()
        end = time.monotonic() + 20
        while num_threads() >= with_game:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)

    with_tabs(playground, test)


def test_a_slow_tab_gets_the_newest_frame(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        await stage.begin("CartPole-v1", "cartpole", 5)
        fields = [(await tab.receive("frame", "play"))[0] for _ in range(2)]
        with pytest.raises(TimeoutError):  # two are on their way, as far as the playground knows
            await asyncio.wait_for(tab.receive("frame", "play"), 1.0)
        await tab.say("play", "seen", serial=fields[-1]["serial"])
        newest, _ = await tab.receive("frame", "play")
        assert newest["serial"] == fields[-1]["serial"] + 1
        assert newest["steps"] > fields[-1]["steps"] + 5

    with_tabs(playground, test)


def test_three_tabs_play_games_of_their_own(playground: Playground) -> None:
    async def test(*tabs: Tab) -> None:
        games = ["CartPole-v1", "torso/Forager-v0", "MinAtar/Breakout-v1"]
        stages = [Stage(tab) for tab in tabs]
        for stage, game in zip(stages, games, strict=True):
            assert (await stage.begin(game, None))["game"] == game
        await tabs[0].socket.close()
        for stage in stages[1:]:
            steps = [(await stage.frame())[0]["steps"] for _ in range(5)]
            assert steps == sorted(set(steps))

    with_tabs(playground, test, count=3)


def test_another_game_takes_the_place_of_the_first(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        await stage.begin("CartPole-v1", "cartpole")
        await stage.frame()
        await stage.start("torso/Forager-v0", "forager")
        assert (await tab.receive("began", "play"))[0]["game"] == "torso/Forager-v0"
        while (await stage.frame())[1].shape != (512, 480, 3):
            pass

    with_tabs(playground, test)


def test_wrong_wishes_are_told_in_words(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        await stage.start("Nothing-v0", None)
        assert "game must be one of CartPole-v1" in (await tab.receive("trouble", "play"))[0]["text"]
        await stage.start("CartPole-v1", "absent")
        assert "model must be one of cartpole, forager" in (await tab.receive("trouble", "play"))[0]["text"]
        for seed in (-1, "x", 1 << 31, True):
            await tab.say("play", "start", game="CartPole-v1", model=None, seed=seed)
            assert "seed must be" in (await tab.receive("error", "play"))[0]["text"]
        await tab.say("play", "dance")
        assert "type must be start, speed" in (await tab.receive("error", "play"))[0]["text"]
        await stage.start("CartPole-v1", "cartpole")  # and it goes on
        await tab.receive("began", "play")
        for kind, fields, words in (
            ("speed", {"speed": 0}, "speed must be from 0.125 to 64.0, got 0.0"),
            ("speed", {"speed": "fast"}, "speed must be a finite number, got 'fast'"),
            ("epsilon", {"epsilon": 1.5}, "epsilon must lie in [0, 1], got 1.5"),
            ("press", {"action": 2}, "action must be a whole number of at most 1, got 2"),
            ("press", {"action": True}, "action must be a whole number"),
            ("seen", {}, "serial must be a whole number"),
        ):
            await tab.say("play", kind, **fields)
            assert words in (await tab.receive("error", "play"))[0]["text"]

    with_tabs(playground, test)


def test_an_env_that_is_not_here_is_told(start: Callable[..., Playground], tmp_path: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=2))
    for name, env_id in (("strange", "Strange-v9"), ("own", "own_package:Own-v0")):
        save_model(tmp_path / name, build_network(spec), kind="policy", provenance={"env_id": env_id})
    running = start(str(tmp_path / "strange"), str(tmp_path / "own"))

    async def test(tab: Tab) -> None:
        stage = Stage(tab)
        await stage.start("Strange-v9", "strange")
        assert "Strange-v9" in (await tab.receive("trouble", "play"))[0]["text"]
        await stage.start("own_package:Own-v0", "own")
        assert "--import own_package" in (await tab.receive("trouble", "play"))[0]["text"]

    with_tabs(running, test)
    running.end()


class Masked(gym.Env[Any, Any]):
    """Env whose legal actions change; it fails at an illegal one."""

    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(4)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 500}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.step_count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return np.zeros(2, np.float32), self.info()

    def info(self) -> dict[str, Any]:
        mask = np.zeros(4, np.int8)
        mask[[self.step_count % 4, (self.step_count + 1) % 4]] = 1
        return {"action_mask": mask}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.info()["action_mask"][action] == 1
        self.step_count += 1
        return np.full(2, self.step_count / 30, np.float32), 1.0, self.step_count == 30, False, self.info()

    def render(self) -> Any:
        return np.full((8, 8, 3), self.step_count, np.uint8)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_illegal_actions_are_not_taken(tmp_path: Path, epsilon: float) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(2,)), torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=4))
    save_model(tmp_path / "policy", build_network(spec), kind="policy")

    async def test() -> None:
        ended = asyncio.Event()
        frames: list[dict[str, Any]] = []

        async def send(type: str, body: bytes | None = None, **fields: Any) -> None:
            if type == "frame":
                frames.append(fields)
                performance.seen(fields["serial"])
                if fields["over"]:
                    ended.set()

        performance = Performance(World(env=Masked), LocalPolicy(tmp_path / "policy"), send, seed=0)
        performance.controls.epsilon = epsilon
        performance.controls.is_by_hand = True
        performance.controls.pressed = 2  # which is legal in half of the steps
        playing = asyncio.create_task(performance.run())
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait([playing, waiting], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert ended.is_set(), playing
        playing.cancel()
        assert frames[-1]["finished"] == [30.0]

    asyncio.run(test())


def test_a_part_takes_no_wishes_that_are_none() -> None:
    player = Player(None, None)  # type: ignore[arg-type]  # it is not run
    for fields in ({}, {"game": 3}, {"game": "CartPole-v1", "model": 4}):
        with pytest.raises(ConfigError, match="must be a name"):
            player.put(TabMessage("play", "start", fields))
    player.put(TabMessage("play", "pause", {"on": True}))  # of a game that has gone
