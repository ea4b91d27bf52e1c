from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given

from torso.envs import IdentityEnv, action_start, env_seeds, make_vector, observation_layout, require_next_step
from torso.envs.games.atari import AtariVector
from torso.envs.games.forager import MAX_EPISODE_STEPS, ForagerVector
from torso.envs.games.minatar import MinAtarVector
from torso.errors import ConfigError, EnvError, MissingExtraError


class Counts(gym.Env[np.ndarray, np.int64]):
    """Shows [episode, step] and ends after ``length`` steps; remembers whether it was closed."""

    made: ClassVar[list[Counts]] = []

    def __init__(self, length: int = 3, fails: bool = False) -> None:
        if fails:
            raise RuntimeError("out of counters")
        self.observation_space = gym.spaces.Box(0, 1000, (2,), np.int64)
        self.action_space = gym.spaces.Discrete(2)
        self.length = length
        self.obs = np.array([-1, 0])
        self.closed = 0
        Counts.made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = np.array([self.obs[0] + 1, 0])
        return self.obs, {}

    def step(self, action):
        self.obs += (0, 1)  # in place, as careless envs do
        return self.obs, 1.0, bool(self.obs[1] == self.length), False, {}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def _fresh_counts():
    Counts.made.clear()


def trace(vector: SyncVectorEnv, steps: int = 30, **reset: Any) -> list[Any]:
    obs, _ = vector.reset(**reset)
    events = [obs.tolist()]
    for step in range(steps):
        obs, reward, terminated, truncated, _ = vector.step(np.full(vector.num_envs, step % 2))
        events.append([obs.tolist(), reward.tolist(), terminated.tolist(), truncated.tolist()])
    return events


# the stream


def test_the_reset_row_follows_the_true_last_observation():
    vector = make_vector(Counts)
    assert trace(vector, 5) == [
        [[0, 0]],
        [[[0, 1]], [1.0], [False], [False]],
        [[[0, 2]], [1.0], [False], [False]],
        [[[0, 3]], [1.0], [True], [False]],
        [[[1, 0]], [0.0], [False], [False]],  # the reset row
        [[[1, 1]], [1.0], [False], [False]],
    ]
    vector.close()


def test_envs_of_one_vector_reset_each_in_its_own_time():
    lengths = iter((2, 3))
    vector = make_vector(lambda: Counts(next(lengths)), 2)
    rewards = [event[1] for event in trace(vector, 6)[1:]]
    assert rewards == [[1, 1], [1, 1], [0, 1], [1, 0], [1, 1], [0, 1]]
    vector.close()


def test_observations_are_copies_to_keep_and_to_write_to():
    vector = make_vector(Counts, 2)
    first, _ = vector.reset()
    second, *_ = vector.step(np.array([0, 0]))
    third, *_ = vector.step(np.array([0, 0]))
    assert [obs.tolist() for obs in (first, second, third)] == [[[0, 0]] * 2, [[0, 1]] * 2, [[0, 2]] * 2]
    third[:] = 99
    fourth, *_ = vector.step(np.array([0, 0]))
    assert fourth.tolist() == [[0, 3]] * 2
    vector.close()


def test_the_mode_is_next_step_and_no_other_is_taken():
    vector = make_vector("CartPole-v1", 2)
    require_next_step(vector)
    require_next_step(gym.wrappers.vector.RecordEpisodeStatistics(vector))
    vector.close()
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        other = SyncVectorEnv([IdentityEnv], autoreset_mode=mode)
        with pytest.raises(EnvError, match=f"must have the autoreset mode NEXT_STEP, .*, got {mode.name}; pass"):
            require_next_step(other)
        other.metadata = {}
        with pytest.raises(EnvError, match=r"must have the autoreset mode NEXT_STEP, .*, got none; pass"):
            require_next_step(other)
        other.close()


# seeds


def test_the_first_reset_begins_from_the_seeds_and_the_next_goes_on():
    vector, given_by_hand = make_vector("CartPole-v1", 3, seed=[5, 6, 7]), make_vector("CartPole-v1", 3)
    assert vector.seeds == (5, 6, 7)
    assert trace(vector) == trace(given_by_hand, seed=[5, 6, 7])
    assert vector.np_random_seed == (5, 6, 7)
    assert trace(vector) == trace(given_by_hand)  # no seed: both go on with their generators
    assert trace(vector, seed=[5, 6, 7]) != trace(vector)
    vector.close()
    given_by_hand.close()


def test_a_number_gives_each_env_a_seed_of_its_own():
    vector = make_vector("CartPole-v1", 3, seed=4)
    again, other = make_vector("CartPole-v1", 3, seed=4), make_vector("CartPole-v1", 3, seed=5)
    assert list(vector.seeds) == env_seeds(4, 3, 0)
    events = trace(vector)
    assert events == trace(again) != trace(other)
    assert len({tuple(row) for row in events[0]}) == 3
    for each in (vector, again, other):
        each.close()


def test_seeds_take_nothing_from_global_generators():
    state = np.random.get_state()[1].tolist()
    trace(make_vector("FrozenLake-v1", 2))
    assert np.random.get_state()[1].tolist() == state


def test_env_seeds_stay_as_released():
    """A resumed run replays its envs from these: they must never change."""
    assert env_seeds(0, 4, 0) == [2044266242, 1976665982, 980756183, 1188727675]
    assert env_seeds(1, 4, 20_000) == [225313276, 292618898, 119363066, 1128929869]


@given(seed=st.integers(0, 2**64), num_envs=st.integers(1, 20), step=st.integers(0, 2**40))
def test_env_seeds_depend_on_seed_index_and_step_alone(seed: int, num_envs: int, step: int):
    seeds = env_seeds(seed, num_envs, step)
    assert seeds == env_seeds(seed, 20, step)[:num_envs]
    assert all(isinstance(each, int) and 0 <= each < 2**31 for each in seeds)
    assert seeds != env_seeds(seed + 1, num_envs, step)
    assert seeds != env_seeds(seed, num_envs, step + 1)


def test_env_seeds_do_not_repeat():
    seeds = [each for seed in range(5) for step in range(0, 100_000, 20_000) for each in env_seeds(seed, 8, step)]
    assert len(set(seeds)) == len(seeds) == 200


@pytest.mark.parametrize(("seed", "num_envs", "step"), [(-1, 1, 0), (0, 0, 0), (0, 1, -1)])
def test_env_seeds_refuse_what_cannot_work(seed: int, num_envs: int, step: int):
    with pytest.raises(ConfigError):
        env_seeds(seed, num_envs, step)


# what may be given


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1", "Blackjack-v1", "LunarLander-v3"]
)
def test_ids_of_gymnasium(env_id: str):
    vector = make_vector(env_id, 2)
    obs, _ = vector.reset()
    assert obs.shape == (2, *vector.single_observation_space.shape)
    vector.close()


def test_a_module_that_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_worlds.py").write_text(
        "import gymnasium as gym\n"
        "from torso.envs import IdentityEnv\n"
        "gym.register('Mine-v0', entry_point=IdentityEnv, max_episode_steps=4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    vector = make_vector("my_worlds:Mine-v0", 2, env_kwargs={"num_values": 7})
    assert vector.single_action_space.n == 7
    assert [event[3] for event in trace(vector, 4)[1:]] == [[False, False]] * 3 + [[True, True]]
    vector.close()
    with pytest.raises(EnvError, match=r"unknown environment 'my_worlds:Mine-v3'; did you mean 'Mine-v0'\?"):
        make_vector("my_worlds:Mine-v3")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No module named"),
        ("import nowhere_at_all", "nowhere_at_all"),
        ("1 / 0", "ZeroDivisionError"),
        ("(", "SyntaxE"),
    ],
)
def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reason: str
):
    name = f"broken_worlds_{len(text or '')}"
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError, match=f"'{name}:Mine-v0': the module '{name}' could not be imported .*{reason}"):
        make_vector(f"{name}:Mine-v0")


@pytest.mark.parametrize("source", [IdentityEnv, lambda **given: IdentityEnv(**given)])
def test_a_class_or_a_function(source):
    vector = make_vector(source, 3, env_kwargs={"num_values": 5})
    assert vector.num_envs == 3
    assert vector.single_observation_space.shape == (5,)
    vector.close()


def test_a_constructed_env():
    env = Counts()
    vector = make_vector(env)
    assert trace(vector, 2)[2][0] == [[0, 2]]
    with pytest.raises(ConfigError, match=r"is one constructed env, got .*; pass its id, its class or a function"):
        make_vector(env, 2)
    with pytest.raises(ConfigError, match="which is constructed already"):
        make_vector(env, env_kwargs={"length": 3})
    assert env.closed == 0
    vector.close()
    assert env.closed == 1


def test_time_limits():
    for source in ("CartPole-v1", IdentityEnv, IdentityEnv()):
        vector = make_vector(source, max_episode_steps=2)
        assert [event[3] for event in trace(vector, 3)[1:]] == [[False], [True], [False]]
        vector.close()
    both = make_vector("CartPole-v1", 2, env_kwargs={"max_episode_steps": 9}, max_episode_steps=3)
    assert truncations(both, 3) == [[False] * 2, [False] * 2, [True] * 2]
    both.close()
    longer = make_vector("CartPole-v1", env_kwargs={"max_episode_steps": 900})
    assert longer.envs[0].get_wrapper_attr("_max_episode_steps") == 900
    longer.close()


def test_wrappers_in_order_and_before_the_spaces_are_judged():
    def three_actions(env: gym.Env) -> gym.Env:
        return gym.wrappers.TransformAction(
            env, lambda action: np.array([action - 1.0], np.float32), gym.spaces.Discrete(3)
        )

    vector = make_vector(
        "Pendulum-v1",
        wrappers=[
            three_actions,
            lambda env: gym.wrappers.TransformReward(env, lambda reward: reward * 0 + 1),
            lambda env: gym.wrappers.TransformReward(env, lambda reward: reward + 10),
        ],
    )
    assert trace(vector, 1)[1][1] == [11.0]
    vector.close()


def test_actions_that_do_not_begin_at_0():
    vector = make_vector(IdentityEnv, 2, env_kwargs={"action_start": -3})
    start = action_start(vector.single_action_space)
    assert start == -3
    obs, _ = vector.reset()
    _, reward, *_ = vector.step(obs.argmax(axis=1) + start)
    assert reward.tolist() == [1.0, 1.0]
    vector.close()
    assert action_start(gym.spaces.Discrete(4)) == 0
    with pytest.raises(EnvError, match="the action space must be Discrete, got Box"):
        action_start(gym.spaces.Box(0, 1, (2,)))


def truncations(vector: VectorEnv, steps: int) -> list[list[bool]]:
    vector.reset()
    return [vector.step(np.zeros(2, int))[3].tolist() for _ in range(steps)]


OWN_VECTORS = [
    ("ALE/Pong-v5", AtariVector, ((4, 84, 84), "uint8", "chw"), ((210, 160, 3), "uint8", "hwc")),
    ("MinAtar/Breakout-v1", MinAtarVector, ((10, 10, 4), "bool", "hwc"), ((10, 10, 4), "bool", "hwc")),
    ("torso/Forager-v0", ForagerVector, ((27,), "float32", None), ((27,), "float32", None)),
]


@pytest.mark.parametrize(("env_id", "vector_class", "shown", "shown_wrapped"), OWN_VECTORS)
def test_ids_with_a_vector_env_of_their_own(env_id: str, vector_class: type, shown: tuple, shown_wrapped: tuple):
    vector = make_vector(env_id, 2, seed=[3, 4], render_mode="rgb_array", env_kwargs={"max_episode_steps": 3})
    by_module = make_vector(f"torso.envs:{env_id}", 2, max_episode_steps=3, env_kwargs={"max_episode_steps": 5})
    one_by_one = make_vector(
        env_id, 2, seed=[3, 4], wrappers=[lambda env: env], render_mode="rgb_array", max_episode_steps=3
    )
    assert type(vector) is type(by_module) is vector_class
    assert isinstance(one_by_one, SyncVectorEnv)
    for each, layout in ((vector, shown), (one_by_one, shown_wrapped)):
        require_next_step(each)
        assert observation_layout(each.single_observation_space) == layout
        assert truncations(each, 4) == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
        assert each.seeds == (3, 4)
        frames = each.render()
        assert [(frame.dtype, frame.ndim, frame.shape[2]) for frame in frames] == [(np.uint8, 3, 3)] * 2
    assert truncations(by_module, 4) == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    for each in (vector, by_module, one_by_one):
        each.close()


def test_a_namespace_alone_is_no_id_of_it():
    for env_id in ("ALE", "MinAtar", "torso/Forager-v00", "ALE/"):
        with pytest.raises(EnvError, match="environment"):
            make_vector(env_id)


def test_torsos_own_ids():
    assert {env_id for env_id in gym.registry if env_id.startswith("torso/")} == {
        "torso/Digits-v0",
        "torso/Forager-v0",
        "torso/Identity-v0",
    }
    assert gym.spec("torso/Forager-v0").max_episode_steps == MAX_EPISODE_STEPS
    with pytest.raises(EnvError, match=r"unknown environment 'torso/Forager-v3'; did you mean 'torso/Forager-v0'"):
        make_vector("torso/Forager-v3")


# what is refused


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", r"unknown environment 'CartPol-v1'; did you mean 'CartPole-v1' or "),
        ("cartpole-v1", r"unknown environment 'cartpole-v1'; did you mean 'CartPole-v1' or "),
        ("CartPole-v9", r"unknown environment 'CartPole-v9'; did you mean 'CartPole-v1'"),
        (
            "Nothing/Like-This-v0",
            r"unknown environment 'Nothing/Like-This-v0'; if a package registers it, install that",
        ),
        ("??", r"'\?\?' is not an environment id such as 'CartPole-v1'"),
        ("", r"'' is not an environment id"),
        (":CartPole-v1", r"the module '' could not be imported"),
        (
            "Pendulum-v1",
            r"Pendulum-v1 must have Discrete actions, got Box\(-2.0, 2.0, \(1,\), float32\); choose another env",
        ),
    ],
)
def test_ids_that_cannot_be_used(env_id: str, message: str):
    with pytest.raises(EnvError, match=message):
        make_vector(env_id)


@pytest.mark.parametrize(
    ("env_id", "module", "error", "message"),
    [
        ("LunarLander-v3", "Box2D", MissingExtraError, r"needs the extra 'box2d': pip install 'torso\[box2d\]'"),
        ("phys2d/CartPole-v1", "jax", EnvError, "needs the module 'jax', which is not installed: pip install jax"),
    ],
)
def test_a_missing_dependency_names_its_install_command(
    env_id: str, module: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
):
    for name in list(sys.modules):
        if name.startswith((module, "gymnasium.envs.box2d", "gymnasium.envs.phys2d")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error, match=f"{env_id} {message}"):
        make_vector(env_id)


def test_drawing_without_what_draws(monkeypatch: pytest.MonkeyPatch):
    vector = make_vector("CartPole-v1", render_mode="rgb_array")
    vector.reset()
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MissingExtraError, match=r"drawing CartPole-v1 needs the extra 'video': pip install"):
        vector.render()
    vector.close()


def test_a_constructor_that_fails_says_why():
    with pytest.raises(EnvError, match=r"CartPole-v1 could not be made with {'wings': 2}: TypeError: .*wings"):
        make_vector("CartPole-v1", env_kwargs={"wings": 2})
    with pytest.raises(EnvError, match="Counts could not be made: RuntimeError: out of counters") as caught:
        make_vector(Counts, env_kwargs={"fails": True})
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": -3}, "num_envs must be at least 1, got -3"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1, got 0"),
        ({"seed": -1}, "must not be negative"),
        ({"seed": [1, -2], "num_envs": 2}, r"seeds must not be negative, got \[1, -2\]"),
        ({"seed": [1, 2]}, "seed must hold one for each of 1 envs, got 2"),
        ({"env_id": 7}, "env_id must be a Gymnasium id, .* got 7"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_vector(**({"env_id": "CartPole-v1"} | arguments))


def test_functions_that_do_not_make_new_envs():
    env = Counts()
    with pytest.raises(EnvError, match="returned the same env twice"):
        make_vector(lambda: env, 2)
    with pytest.raises(EnvError, match=r"must make a gymnasium.Env, got str"):
        make_vector(lambda: "CartPole-v1")  # type: ignore[arg-type, return-value]
    with pytest.raises(EnvError, match=r"wrapper .* must return a gymnasium.Env, got NoneType"):
        make_vector(Counts, wrappers=[lambda env: None])  # type: ignore[arg-type, return-value]


def test_envs_that_differ():
    sizes = iter((3, 4))
    with pytest.raises(EnvError, match=r"must have the same spaces: env 0 has .*env 1 has"):
        make_vector(lambda: IdentityEnv(next(sizes)), 2)


@pytest.mark.parametrize("at", ["the env", "the wrapper", "the space"])
def test_a_failure_closes_what_was_opened(at: str):
    def wrap(env: gym.Env) -> gym.Env:
        if len(Counts.made) < 3:
            return env
        if at == "the wrapper":
            raise KeyError("lost")
        return gym.wrappers.TransformAction(env, lambda action: 0, gym.spaces.Box(0, 1, (1,)))

    def make() -> Counts:
        return Counts(fails=at == "the env" and len(Counts.made) == 2)

    with pytest.raises((EnvError, KeyError)):
        make_vector(make, 4, wrappers=[wrap])
    assert [env.closed for env in Counts.made] == [1] * (2 if at == "the env" else 3)


def test_a_failure_leaves_a_constructed_env_to_its_owner():
    env = Counts()
    env.action_space = gym.spaces.MultiBinary(2)  # type: ignore[assignment]
    with pytest.raises(EnvError, match="must have Discrete actions, got MultiBinary"):
        make_vector(env)
    assert env.closed == 0
