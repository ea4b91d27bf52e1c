from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ale_py import ALEInterface, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from torso.agents import DQN, DQNConfig
from torso.agents.runs.events import Evaluation
from torso.agents.training.train_runs import train_run
from torso.envs import make_vector, require_next_step
from torso.envs.games.atari import AtariVector
from torso.envs.games.atari_scores import (
    PUBLISHED_SCORES,
    human_normalized_score,
    protocol_text,
    sticky_actions_text,
)
from torso.envs.games.atari_settings import PROTOCOLS, AtariSettings
from torso.envs.vector.world import World, recorded_env_kwargs, recorded_world
from torso.errors import ConfigError, EnvError

Make = Callable[..., AtariVector]
STILL = {"repeat_action_probability": 0.0}


@pytest.fixture
def make() -> Iterator[Make]:
    """``make(game, seeds, ...)``; closed after the test."""
    made: list[AtariVector] = []

    def build(game: str, seeds: Sequence[int] = (3,), **kwargs: Any) -> AtariVector:
        made.append(AtariVector(f"ALE/{game}-v5", seeds, **kwargs))
        return made[-1]

    yield build
    for vector in made:
        vector.close()


def random_actions(vector: AtariVector, steps: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """The same action for each env."""
    rng = np.random.default_rng(seed)
    return [np.full(vector.num_envs, action) for action in rng.integers(vector.single_action_space.n, size=steps)]


def tape(vector: AtariVector, env: int = 0, steps: int = 30, **reset: Any) -> list[bytes]:
    """Record the outputs of one env over some random steps."""
    obs, infos = vector.reset(**reset)
    recorded = [obs[env].tobytes() + infos["lives"][env].tobytes()]
    for actions in random_actions(vector, steps):
        obs, rewards, terminated, truncated, infos = vector.step(actions)
        recorded.append(b"".join(each[env].tobytes() for each in (obs, rewards, terminated, truncated, infos["lives"])))
    return recorded


# what it is


def test_it_plays_as_its_id_is_registered(make):
    settings = make("Pong").settings
    assert settings == AtariSettings()
    registered = dict(gym.spec("ALE/Pong-v5").kwargs)
    assert registered.pop("game") == "pong"
    assert {name: getattr(settings, name) for name in registered} == registered
    assert (settings.noop_max, settings.use_fire_reset, settings.life_loss_info) == (0, False, False)


def test_its_arrays(make):
    vector = make("Pong", (1, 2, 3))
    require_next_step(vector)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert (vector.num_envs, vector.frame_stack, vector.seeds) == (3, 4, (1, 2, 3))
    assert vector.single_observation_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert vector.single_action_space == gym.spaces.Discrete(6)
    obs, infos = vector.reset()
    assert vector.observation_space.contains(obs)
    assert infos["life_lost"].tolist() == [False] * 3
    obs, rewards, terminated, truncated, infos = vector.step(np.zeros(3, np.int64))
    assert vector.observation_space.contains(obs)
    assert [(each.dtype, each.shape) for each in (rewards, terminated, truncated, infos["life_lost"])] == [
        (np.float64, (3,)),
        (np.bool_, (3,)),
        (np.bool_, (3,)),
        (np.bool_, (3,)),
    ]


def test_stacks_begin_with_zeros_and_move_up(make):
    vector = make("Breakout", **STILL)
    before, _ = vector.reset()
    assert not before[0, :3].any()
    assert before[0, 3].any()
    for actions in random_actions(vector, 8):
        obs, *_ = vector.step(actions)
        np.testing.assert_array_equal(obs[0, :3], before[0, 1:])
        before = obs


def test_what_it_returns_is_the_callers_to_keep_and_to_write_to(make):
    vector, untouched = (make("Breakout", protocol="dqn2015", noop_max=0) for _ in range(2))
    kept, infos = vector.reset()
    untouched.reset()
    copy = kept.copy()
    for actions in random_actions(vector, 20):
        infos["lives"][:] = 9
        obs, rewards, terminated, truncated, infos = vector.step(actions)
        expected = untouched.step(actions)
        np.testing.assert_array_equal(obs, expected[0])
        assert (infos["lives"], infos["life_lost"]) == (5, False)
        for array in (obs, rewards, terminated, truncated):
            array[:] = 1
    np.testing.assert_array_equal(kept, copy)


def test_make_vector_makes_it():
    vector = make_vector("ALE/Breakout-v5", 2, seed=[5, 6], env_kwargs={"protocol": "dqn2015"}, max_episode_steps=9)
    assert isinstance(vector, AtariVector)
    assert vector.seeds == (5, 6)
    assert vector.settings.life_loss_info
    assert vector.settings.max_num_frames_per_episode == 36
    vector.close()


# seeds


def test_an_env_is_a_function_of_its_seed_and_its_actions(make):
    alone = tape(make("Breakout", [0]))
    assert tape(make("Breakout", [0])) == alone, "built anew"
    assert tape(make("Breakout", [2**31 - 1, 0]), env=1) == alone, "among others"
    used = make("Breakout", [8])
    assert tape(used) != alone
    assert tape(used, seed=[0]) == alone, "seeded again"


def test_seeds_of_reset_are_gymnasiums(make):
    single = make("Breakout", [4])
    four, eleven = tape(single), tape(single, seed=11)
    vector = make("Breakout", (3, 4))
    assert tape(vector, env=1, seed=[None, None]) == four, "these were due"
    assert tape(vector, env=1, seed=10) == eleven
    onwards = tape(vector, env=1)
    assert onwards not in (four, eleven)
    tape(vector, seed=10)
    assert tape(vector, env=1, seed=[7, None]) == onwards
    for wrong in ([1], [1, 2, 3], [1, 2**31], [1, -1], -1, [1, 2.5], [True, 1], 2**31 - 1):
        with pytest.raises(ConfigError, match="seed"):
            vector.reset(seed=wrong)


def test_the_second_episode_too_is_determined(make):
    first, second = (make("Breakout", (5, 6), max_episode_steps=10) for _ in range(2))
    assert tape(first, env=1, steps=50) == tape(second, env=1, steps=50)


@pytest.mark.parametrize(
    ("kwargs", "sticky"),
    [({}, True), (STILL, False), ({"protocol": "machado2018"}, True), ({"protocol": "dqn2015", "noop_max": 0}, False)],
)
def test_actions_stick_by_default_and_not_where_a_protocol_says_so(make, kwargs, sticky):
    vector = make("Breakout", (1, 2), **kwargs)
    vector.reset()
    differing = [(obs[0] != obs[1]).any() for obs, *_ in map(vector.step, random_actions(vector, 30))]
    assert any(differing) == sticky


@pytest.mark.parametrize("seeds", [[-1], [2**31], [1.0], ["1"], [True]])
def test_seeds_that_the_ale_cannot_take_are_refused(seeds):
    with pytest.raises(ConfigError, match=r"a seed of the ALE must be a whole number in \[0, 2\*\*31\), got"):
        AtariVector("ALE/Pong-v5", seeds)
    with pytest.raises(ConfigError, match="ALE/Pong-v5 must have a seed for each env, got none"):
        AtariVector("ALE/Pong-v5", [])


# rewards and ends


def test_a_lost_life_is_told_and_the_game_goes_on(make):
    # Frogger plays on for some steps when the last life is gone
    vector = make("Frogger", protocol="dqn2015", noop_max=0)
    silent = make("Frogger", **STILL)
    theirs = AtariVectorEnv(
        "frogger", 1, num_threads=1, noop_max=0, use_fire_reset=False, reward_clipping=False, life_loss_info=True
    )
    vector.reset()
    silent.reset()
    theirs.reset(seed=np.array([3]))
    lives, lost, ends, dying = 4, 0, 0, 0
    for actions in random_actions(vector, 400):
        obs, rewards, terminated, _, infos = vector.step(actions)
        same, _, their_terminated, _, _ = theirs.step(actions)
        np.testing.assert_array_equal(obs, same)
        assert (terminated | infos["life_lost"]) == their_terminated
        assert infos["life_lost"] == (0 < infos["lives"] < lives)
        lives = int(infos["lives"][0])
        lost += int(infos["life_lost"][0])
        ends += int(terminated[0])
        dying += int(lives == 0 and not terminated[0])
        quiet = silent.step(actions)
        assert not quiet[4]["life_lost"].any()
        assert (quiet[1], quiet[2]) == (rewards, terminated)
    assert (lost, ends) == (3, 1)
    assert dying > 5
    theirs.close()


def test_a_life_that_a_new_game_lacks_is_not_lost(make):
    # Demon Attack reports 1 life at the start of a game, and 4 from its first frame on
    vector = make("DemonAttack", protocol="dqn2015", max_episode_steps=3, noop_max=0)
    vector.reset()
    lives = []
    for _ in range(8):
        _, _, terminated, truncated, infos = vector.step(np.zeros(1, np.int64))
        lives.append((int(infos["lives"][0]), bool(truncated[0])))
        assert not terminated.any()
        assert not infos["life_lost"].any()
    assert lives == [(4, False), (4, False), (4, True), (1, False)] * 2


def test_a_game_without_lives_ends_when_it_is_over(make):
    vector = make("LaserGates", protocol="dqn2015", noop_max=0)
    vector.reset()
    screen, actions = emulator("laser_gates")
    for chosen in random_actions(vector, 400, seed=1):
        obs, rewards, terminated, truncated, infos = vector.step(chosen)
        for _ in range(4):
            screen.act(actions[chosen[0]])
            if screen.game_over():
                break
        assert terminated[0] == screen.game_over()
        assert infos["lives"] == [0]
        assert not truncated.any()
        assert not infos["life_lost"].any()
        if terminated[0]:
            break
    assert terminated[0]
    obs, rewards, terminated, truncated, infos = vector.step(np.array([1]))  # the reset row
    assert (rewards, terminated, truncated, infos["episode_frame_number"]) == (0, False, False, 0)
    assert not obs[0, :3].any()


def test_rewards_are_the_games_own(make):
    vector = make("Riverraid", **STILL)
    vector.reset()
    screen, actions = emulator("riverraid")
    total = 0.0
    for chosen in random_actions(vector, 60):
        expected = sum(screen.act(actions[chosen[0]]) for _ in range(4))
        _, rewards, _, _, _ = vector.step(chosen)
        assert rewards[0] == expected
        total += expected
    assert total >= 60


@pytest.mark.parametrize(
    "limit",
    [{"max_episode_steps": 5}, {"max_num_frames_per_episode": 20}, {"max_num_frames_per_episode": 18}],
    ids=["steps", "frames", "frames that end within a step"],
)
def test_at_the_limit_an_episode_is_cut_and_the_next_step_begins_another(make, limit):
    vector = make("Pong", (1, 2), **limit)
    start, _ = vector.reset()
    for _ in range(2):
        cut = []
        for _ in range(5):
            obs, rewards, terminated, truncated, infos = vector.step(np.array([2, 3]))
            assert not terminated.any()
            cut.append(truncated.tolist())
        assert cut == [[False, False]] * 4 + [[True, True]]
        assert obs[:, 0].any(), "the last observation is the episode's own"
        assert infos["episode_frame_number"].tolist() == [limit.get("max_num_frames_per_episode", 20)] * 2
        obs, rewards, terminated, truncated, infos = vector.step(np.array([2, 3]))
        assert [each.any() for each in (rewards, terminated, truncated)] == [False] * 3
        assert infos["episode_frame_number"].tolist() == [0, 0]
        np.testing.assert_array_equal(obs, start)


def test_the_limit_is_in_steps_whatever_the_frames(make):
    vector = make("Pong", frameskip=2, max_episode_steps=3)
    vector.reset()
    assert [bool(vector.step(np.array([0]))[3][0]) for _ in range(4)] == [False, False, True, False]
    assert vector.metadata["render_fps"] == 30


@pytest.mark.parametrize(
    ("kwargs", "frames"),
    [
        ({"noop_max": 2}, {0, 1, 2}),
        ({"noop_max": 2, "use_fire_reset": True}, {1, 2}),  # FIRE in place of one of them
        ({"noop_max": 0, "use_fire_reset": True}, {1}),
    ],
)
def test_episodes_begin_with_up_to_as_many_no_ops_as_are_asked_for(make, kwargs, frames):
    vector = make("Breakout", (1, 2), **kwargs)
    assert {frame for _ in range(8) for frame in vector.reset()[1]["episode_frame_number"].tolist()} == frames


def test_all_actions_where_asked_for(make):
    vector = make("Pong", full_action_space=True)
    assert vector.single_action_space.n == 18


# protocols and settings


def test_the_protocols(make):
    assert make("Pong", protocol="machado2018").settings == AtariSettings(full_action_space=True)
    assert make("Pong", protocol="machado2018").single_action_space.n == 18
    assert make("Pong", protocol="v5").settings == AtariSettings()
    mnih = make("Pong", protocol="dqn2015").settings
    assert mnih == AtariSettings(repeat_action_probability=0.0, noop_max=30, life_loss_info=True)
    assert mnih.max_num_frames_per_episode == 108_000
    assert make("Pong", protocol="dqn2015", noop_max=7).settings.noop_max == 7
    for protocol in PROTOCOLS.values():
        AtariSettings(**protocol)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"protocol": "dqn2013"}, ConfigError, "protocol must be one of dqn2015, machado2018, v5, got 'dqn2013'"),
        ({"noop": 3}, ConfigError, "ALE/Pong-v5 cannot be given noop: did you mean noop_max"),
        ({"mode": 1}, ConfigError, "cannot be given mode: it has repeat_action_probability, .*single env"),
        ({"reward_clipping": True}, ConfigError, "clipped where they are learnt from"),
        ({"episodic_life": True}, ConfigError, "life_loss_info=True"),
        ({"repeat_action_probability": 1.1}, ConfigError, r"must lie in \[0, 1\], got 1.1"),
        ({"repeat_action_probability": "no"}, ConfigError, r"must lie in \[0, 1\], got 'no'"),
        ({"frameskip": 0}, ConfigError, "frameskip must be a whole number of at least 1 .*, got 0"),
        ({"frameskip": (2, 5)}, ConfigError, "frameskip must be"),
        ({"noop_max": -1}, ConfigError, "noop_max must be a whole number of at least 0"),
        ({"noop_max": True}, ConfigError, "noop_max must be"),
        ({"max_num_frames_per_episode": None}, ConfigError, "max_num_frames_per_episode must be"),
        ({"life_loss_info": 1}, ConfigError, "life_loss_info must be True or False, got 1"),
        ({"max_episode_steps": 5, "max_num_frames_per_episode": 9}, ConfigError, "not both"),
        ({"max_episode_steps": 0}, ConfigError, "max_episode_steps must be"),
        ({"max_episode_steps": 2**30}, ConfigError, "max_num_frames_per_episode must be .* below"),
        ({"render_mode": "human"}, EnvError, "cannot be rendered as 'human'; it has rgb_array"),
    ],
)
def test_settings_that_cannot_work_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        AtariVector("ALE/Pong-v5", [1], **kwargs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ALE/Pogn-v5", "unknown environment 'ALE/Pogn-v5'; did you mean 'ALE/Pong-v5'"),
        ("ALE/pong-v5", "did you mean 'ALE/Pong-v5'"),
        ("ALE/Pong-v4", "did you mean 'ALE/Pong-v5'"),
        ("ALE/Pong", "did you mean 'ALE/Pong-v5'"),
        ("CartPole-v1", "CartPole-v1 is not one of ale-py's games"),
    ],
)
def test_games_that_are_not_there_are_refused(name, message):
    with pytest.raises(EnvError, match=message):
        AtariVector(name, [1])


def test_mistakes_in_use_are_told(make):
    vector = make("Pong", (1, 2))
    with pytest.raises(EnvError, match=r"reset\(\) comes before the first step"):
        vector.step(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match="pass render_mode='rgb_array'"):
        vector.render()
    vector.reset()
    for wrong in ([0, 6], [-1, 0], [0], [0, 0, 0], [0.0, 1.0], [[0, 0]], 0, [True, False], [[0], [0]]):
        with pytest.raises(EnvError, match=r"actions of ALE/Pong-v5 must be 2 whole numbers from 0 to 5, got"):
            vector.step(np.array(wrong))
    vector.step(np.array([5, 0], np.uint8))
    with pytest.raises(EnvError, match="no reset options"):
        vector.reset(options={"reset_mask": np.array([True, False])})
    vector.close()
    vector.close()
    for call in (vector.reset, vector.render, lambda: vector.step(np.zeros(2, np.int64))):
        with pytest.raises(EnvError, match="ALE/Pong-v5 is closed"):
            call()


# rendering


def emulator(game: str, seed: int = 3, sticky: float = 0.0) -> tuple[ALEInterface, Any]:
    """ale-py's plain emulator at the start of a game, and the game's actions."""
    screen = ALEInterface()
    screen.setFloat("repeat_action_probability", sticky)
    screen.setInt("random_seed", seed)
    screen.loadROM(str(roms.get_rom_path(game)))
    screen.reset_game()
    return screen, screen.getMinimalActionSet()


@pytest.mark.parametrize(("game", "rom", "height"), [("Breakout", "breakout", 210), ("KingKong", "king_kong", 250)])
def test_it_shows_the_very_game_in_colour(make, game, rom, height):
    vector = make(game, (9, 3), render_mode="rgb_array")
    with pytest.raises(EnvError, match=r"reset\(\) comes before render"):
        vector.render()
    vector.reset()
    screen, actions = emulator(rom, sticky=0.25)
    np.testing.assert_array_equal(vector.render()[1], screen.getScreenRGB())
    for chosen in random_actions(vector, 25):
        vector.step(chosen)
        frames = []
        for _ in range(4):
            screen.act(actions[chosen[1]])
            frames.append(screen.getScreenRGB())
        shown = vector.render()
        assert len(shown) == 2
        assert (shown[1].shape, shown[1].dtype) == ((height, 160, 3), np.uint8)
        np.testing.assert_array_equal(shown[1], np.maximum(*frames[-2:]))
        shown[1][:] = 0  # the caller's own
        assert vector.render()[1].any()


def test_looking_on_changes_nothing_and_keeps_pace_over_episodes(make):
    limits = {"noop_max": 5, "max_episode_steps": 12}
    seen, unseen = make("Breakout", [1], render_mode="rgb_array", **limits), make("Breakout", [1], **limits)
    assert tape(seen) == tape(unseen)
    for seed in (None, 4, [None]):
        assert tape(seen, seed=seed) == tape(unseen, seed=seed)
        at_play, shown = (games.step(np.zeros(1, np.int64))[4] for games in (seen._games, seen._colour_games))
        assert at_play["frame_number"] == shown["frame_number"]
        unseen.step(np.zeros(1, np.int64))


# scores


def test_scores_are_measured_by_the_random_and_the_human_player():
    for game, (random, human) in PUBLISHED_SCORES.items():
        assert human_normalized_score(f"ALE/{game}-v5", random) == 0.0
        assert human_normalized_score(f"ALE/{game}-v5", human) == 1.0
        assert human > random
    assert human_normalized_score("ALE/Pong-v5", 20.9) == pytest.approx(41.6 / 35.3)
    assert human_normalized_score("ale_py:ALE/Breakout-v5", 0.26) == pytest.approx(-0.05)
    assert human_normalized_score("ALE/Skiing-v5", -10_717.5) == pytest.approx(0.5)


def test_the_published_games_are_the_ales_57():
    assert len(PUBLISHED_SCORES) == 57
    ales = {spec.name for spec in gym.registry.values() if spec.namespace == "ALE"}
    assert set(PUBLISHED_SCORES) <= ales


@pytest.mark.parametrize("name", ["CartPole-v1", "ALE/AirRaid-v5", "MinAtar/Breakout-v1", "Pong-v5", "ALE/Pong", ""])
def test_what_has_no_published_scores_is_not_measured(name):
    assert human_normalized_score(name, 1.0) is None


@pytest.mark.parametrize(
    ("env_kwargs", "sticky"),
    [
        ({}, "0.25"),
        ({"protocol": "machado2018"}, "0.25"),
        ({"protocol": "dqn2015"}, None),
        ({"protocol": "dqn2015", "repeat_action_probability": 0.1}, "0.1"),
        ({"repeat_action_probability": 0.0}, None),
    ],
)
def test_scores_with_sticky_actions_are_marked(env_kwargs: dict[str, Any], sticky: str | None) -> None:
    evaluation = Evaluation(returns=(1.0,), lengths_steps=(9,))
    note = evaluation.to_json("ALE/Pong-v5", env_kwargs).get("human_normalized_score_note")
    assert note is None if sticky is None else f"sticky actions of probability {sticky}," in note
    assert "human_normalized_score_note" not in evaluation.to_json("CartPole-v1", env_kwargs)
    assert "human_normalized_score_note" not in evaluation.to_json("ALE/Adventure-v5", env_kwargs)


@pytest.mark.parametrize(
    ("env_kwargs", "text"),
    [
        ({}, "no protocol, the id's defaults, sticky actions of probability 0.25, no no-ops, 4 frames a step"),
        ({"protocol": "dqn2015"}, "protocol dqn2015, no sticky actions, up to 30 no-ops, 4 frames a step"),
        (
            {"protocol": "machado2018", "frameskip": 5},
            "protocol machado2018, sticky actions of probability 0.25, no no-ops, 5 frames a step, all 18 actions",
        ),
        (
            {"protocol": "dqn2015", "repeat_action_probability": 0.1, "noop_max": 7},
            "protocol dqn2015, sticky actions of probability 0.1, up to 7 no-ops, 4 frames a step",
        ),
    ],
)
def test_a_protocol_is_described(env_kwargs: dict[str, Any], text: str) -> None:
    assert protocol_text("ALE/Pong-v5", env_kwargs) == protocol_text("ale_py:ALE/Adventure-v5", env_kwargs) == text
    assert sticky_actions_text("ALE/Pong-v5", env_kwargs) in text
    assert protocol_text("CartPole-v1", env_kwargs) is sticky_actions_text("CartPole-v1", env_kwargs) is None


def test_a_recorded_protocol_keeps_the_meaning_that_it_had() -> None:
    pong, given = "ALE/Pong-v5", {"protocol": "machado2018"}
    today = World(env=pong, env_kwargs=given)
    assert today.env_kwargs == {"protocol": "machado2018", "full_action_space": True}
    for wrappers in ((), [lambda env: env]):
        assert World(env=pong, env_kwargs=given, wrappers=wrappers).spec.num_actions == 18
    old = recorded_world({"env_id": pong, "env_kwargs": given}, pong)
    assert (old.env_kwargs, old.spec.num_actions) == ({"protocol": "v5"}, 6)
    for world in (today, old, World(env=pong, env_kwargs={**given, "full_action_space": False})):
        again = recorded_world({"env_id": pong, "env_kwargs": dict(world.env_kwargs)}, pong)
        assert again.env_kwargs == world.env_kwargs
    assert recorded_env_kwargs({"env_id": "Mine-v0", "env_kwargs": given}) == given


def test_a_run_of_the_old_meaning_resumes_with_it(tmp_path: Path) -> None:
    config = DQNConfig(min_replay_size=100, replay_capacity=200, evaluation_episodes=1, device="cpu")
    world = World(env="ALE/Pong-v5", env_kwargs={"protocol": "v5", "max_episode_steps": 9})
    out = tmp_path / "run"
    train_run(world, config, total_steps=20, seed=0, out=out)
    recorded = json.loads((out / "config.json").read_text())
    recorded["settings"]["env_kwargs"]["protocol"] = "machado2018"
    (out / "config.json").write_text(json.dumps(recorded))
    resumed = train_run(
        recorded_world(recorded["settings"], "ALE/Pong-v5"), config, total_steps=30, seed=0, out=out, resume=True
    )
    assert resumed.total_steps == 30
    card = json.loads((out / "model" / "model.json").read_text())
    assert card["provenance"]["env_kwargs"]["protocol"] == "v5"
    assert DQN.load(out).world.spec.num_actions == 6
