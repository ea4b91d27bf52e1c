"""Checked env: faults of an env's protocol and code are named, and what is no fault is let through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from torso.agents import DQN
from torso.cli.entry import main
from torso.envs import action_masks, make_vector
from torso.envs.vector.world import World
from torso.errors import EnvError

BOX = gym.spaces.Box(-9, 9, (2,), np.float32)
OBS = np.zeros(2, np.float32)


class Faulty(gym.Env):
    """Returns from reset and step what it is given; a function is called with the number of steps."""

    def __init__(
        self, reset: Any = (OBS, {}), step: Any = (OBS, 0.0, False, False, {}), space: gym.Space = BOX
    ) -> None:
        self.observation_space, self.action_space = space, gym.spaces.Discrete(3)
        self.results, self.num_steps = (reset, step), 0
        self.actions: list[Any] = []

    def reset(self, *, seed=None, options=None):
        return self._result(0)

    def step(self, action):
        self.num_steps += 1
        self.actions.append(action)
        return self._result(1)

    def _result(self, index: int) -> Any:
        result = self.results[index]
        return result(self.num_steps) if callable(result) else result


class Unseeded(Faulty):
    def reset(self):  # type: ignore[override]
        return OBS, {}


class WithoutOptions(Faulty):
    def reset(self, *, seed=None):  # type: ignore[override]
        return OBS, {}


def raising(error: Exception) -> Callable[[int], Any]:
    def fail(num_steps: int) -> Any:
        raise error

    return fail


def step(**given: Any) -> tuple[Any, ...]:
    usual = {"obs": OBS, "reward": 0.0, "terminated": False, "truncated": False, "info": {}}
    return tuple({**usual, **given}.values())


def one_hot(value: Any, space: gym.Space) -> dict[str, Any]:
    return {"step": step(obs=value), "reset": (space.sample(), {}), "space": space}


RESET, STEP = r"reset\(\) must return \(observation, info\)", r"step\(\) must return"
FIVE = STEP + r" \(observation, reward, terminated, truncated, info\)"
DISCRETE, BITS = gym.spaces.Discrete(4, start=1), gym.spaces.MultiBinary(2)
DICT, TUPLE = gym.spaces.Dict({"at": BOX, "goal": DISCRETE}), gym.spaces.Tuple((BOX, DISCRETE))
FAULTS = [
    (
        partial(Unseeded),
        r"reset\(\) must take the keyword arguments seed and options, got one without seed and options",
    ),
    (partial(WithoutOptions), r"reset\(\) must take .*, got one without options; declare reset\(self, \*, seed=None"),
    (partial(Faulty, reset=OBS), RESET + r", got float32 \[2\]"),
    (partial(Faulty, reset=None), RESET + ", got None"),
    (partial(Faulty, reset=(OBS,)), RESET + r", got 1 values \(float32 \[2\]\)"),
    (partial(Faulty, reset=(OBS, {}, {})), RESET + ", got 3 values"),
    (partial(Faulty, reset=(OBS, None)), RESET + " with a dict as info, got None"),
    (partial(Faulty, reset=(OBS, [])), RESET + " with a dict as info, got a list of 0"),
    (partial(Faulty, step=(OBS, 0.0, False, {})), FIVE + r", got 4 values \(float32 \[2\], float, bool, dict\)"),
    (partial(Faulty, step=None), FIVE + ", got None"),
    (partial(Faulty, step=step(info=None)), FIVE + " with a dict as info, got None"),
    (partial(Faulty, step=step(reward=np.zeros(1))), STEP + r" one number as reward, got float64 \[1\]"),
    (partial(Faulty, step=step(reward=[1.0])), STEP + " one number as reward, got a list of 1"),
    (partial(Faulty, step=step(reward=None)), STEP + " one number as reward, got None"),
    (partial(Faulty, step=step(reward="1")), STEP + " one number as reward, got str"),
    (partial(Faulty, step=step(reward=1j)), STEP + " one number as reward, got complex"),
    (partial(Faulty, step=step(terminated=None)), STEP + " True or False as terminated, got None"),
    (partial(Faulty, step=step(truncated=np.zeros(1, bool))), STEP + r" True or False as truncated, got bool \[1\]"),
    (partial(Faulty, step=step(info={"life_lost": 3})), STEP + r" True or False as info\['life_lost'\], got int"),
    (
        partial(Faulty, step=step(obs=np.zeros(3, np.float32))),
        STEP + r" float32 \[2\] as observation, .* float32 \[3\]",
    ),
    (partial(Faulty, step=step(obs=None)), STEP + r" float32 \[2\] as observation, like its space, got None"),
    (partial(Faulty, step=step(obs=["a", "b"])), STEP + r" float32 \[2\] as observation, .*, got a list of 2"),
    (partial(Faulty, reset=(np.zeros(2, complex), {})), r"reset\(\) must return float32 \[2\] .* got complex128 \[2\]"),
    (
        partial(Faulty, **one_hot(np.zeros(2), gym.spaces.Box(0, 255, (2,), np.uint8))),
        STEP + r" uint8 \[2\] as observation, like its space, got float64 \[2\]",
    ),
    (
        partial(Faulty, **one_hot(np.array([1, 300]), gym.spaces.Box(-100, 100, (2,), np.int8))),
        STEP + r" int8 \[2\] as observation, like its space, got int64 \[2\]",
    ),
    (partial(Faulty, **one_hot(5, DISCRETE)), STEP + r" a value of Discrete\(4, start=1\) as observation, got 5"),
    (partial(Faulty, **one_hot(0, DISCRETE)), STEP + r" a value of Discrete\(4, start=1\) as observation, got 0"),
    (partial(Faulty, **one_hot(1.0, DISCRETE)), STEP + r" a value of Discrete.* got 1.0"),
    (partial(Faulty, **one_hot(None, DISCRETE)), STEP + r" a value of Discrete.* got None"),
    (partial(Faulty, **one_hot([2], DISCRETE)), STEP + r" a value of Discrete.* got a list of 1 \[2\]"),
    (partial(Faulty, **one_hot(np.array([0, 2]), BITS)), STEP + r" a value of MultiBinary.* got int64 \[2\] \[0, 2\]"),
    (
        partial(Faulty, **one_hot({"at": OBS}, DICT)),
        STEP + r" a dict with \['at', 'goal'\] as observation, got \['at'\]",
    ),
    (partial(Faulty, **one_hot(OBS, DICT)), STEP + r" a dict with \['at', 'goal'\] as observation, got float32 \[2\]"),
    (partial(Faulty, **one_hot({"at": OBS, "goal": 7}, DICT)), STEP + r" .* as observation\['goal'\], got 7"),
    (partial(Faulty, **one_hot((OBS, 7), TUPLE)), STEP + r" .* as observation\[1\], got 7"),
    (partial(Faulty, **one_hot((OBS,), TUPLE)), STEP + r" a tuple of 2 as observation, got a tuple of 1"),
    (partial(Faulty, step=raising(ZeroDivisionError("over 0"))), r"step\(\) raised ZeroDivisionError: over 0$"),
    (partial(Faulty, reset=raising(KeyError())), r"reset\(\) raised KeyError$"),
    (partial(Faulty, step=raising(TypeError("'NoneType' ..."))), r"step\(\) raised TypeError: 'NoneType' ..."),
]


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: gym.wrappers.TimeLimit(env, 9)], ids=["bare", "wrapped"])
@pytest.mark.parametrize(("make", "message"), FAULTS)
def test_a_fault_of_the_protocol_is_named_before_anything_is_learnt(make: Any, message: str, wrap: Any) -> None:
    with pytest.raises(EnvError, match=f"^(Faulty|Unseeded|WithoutOptions): {message}"):
        _ = World(env=make, wrappers=[wrap]).spec


def test_errors_of_the_envs_own_code_are_chained() -> None:
    cause = RuntimeError("the simulator is gone")
    vector = make_vector(lambda: Faulty(step=lambda steps: raising(cause)(0) if steps == 3 else step()))
    vector.reset()
    for _ in range(2):
        vector.step(np.zeros(1, np.int64))
    with pytest.raises(EnvError, match=r"step\(\) raised RuntimeError: the simulator is gone") as caught:
        vector.step(np.zeros(1, np.int64))
    assert caught.value.__cause__ is cause
    vector.close()


def test_a_run_writes_nothing_for_an_env_that_cannot_be_learnt_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gym.register("FourValues-v0", entry_point=lambda: Faulty(step=(OBS, 0.0, False, {})), max_episode_steps=9)
    try:
        code = main(["train", "dqn", "--env", "FourValues-v0", "--out", str(tmp_path / "run")])
    finally:
        del gym.registry["FourValues-v0"]
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert lines[-1].startswith("error: FourValues-v0: step() must return (observation, reward, terminated, truncated,")
    assert list(tmp_path.iterdir()) == []


PATHS = [{"path": np.zeros(1)}, {"path": np.zeros(3)}, {"path": "a"}, {"path": {"a": 1}}, {"path": None}, {}, {7: {}}]


def test_infos_that_are_not_needed_do_not_matter() -> None:
    vector = make_vector(lambda: Faulty(step=lambda steps: step(info=PATHS[steps % len(PATHS)])), 2)
    vector.reset()
    vector.envs[0].unwrapped.num_steps = 3  # other infos than its neighbour's
    for _ in PATHS:
        assert vector.step(np.zeros(2, np.int64))[-1] == {}
    vector.close()
    agent = DQN(
        lambda: Faulty(step=lambda steps: step(info=PATHS[steps % len(PATHS)], truncated=steps % 4 == 0)),
        num_envs=2,
        min_replay_size=10,
        evaluation_period=20,
        evaluation_episodes=3,
    ).learn(40)
    assert agent.total_steps == 40


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(1, 1.0), (True, 1.0), (np.float32(0.1), float(np.float32(0.1))), (np.array(2), 2.0), (np.int8(-3), -3.0)],
)
def test_rewards_may_be_any_number(reward: Any, expected: float) -> None:
    vector = make_vector(lambda: Faulty(step=step(reward=reward, terminated=np.bool_(True), truncated=0)))
    vector.reset()
    assert [each.tolist() for each in vector.step(np.zeros(1, np.int64))[1:4]] == [[expected], [True], [False]]
    vector.close()


@pytest.mark.parametrize(
    "obs", [np.array([0.5, 1.0]), [0.5, 1], (0.5, 1.0), np.array([0.5, 1.0], np.float16)], ids=lambda obs: type(obs)
)
def test_observations_that_a_cast_makes_those_of_the_space_are_cast(obs: Any) -> None:
    vector = make_vector(lambda: Faulty(reset=(obs, {})))
    shown = vector.reset()[0]
    assert (shown.dtype, shown.tolist()) == (np.float32, [[0.5, 1.0]])
    vector.close()


@pytest.mark.skipif("dtype" not in signature(gym.spaces.Discrete).parameters, reason="Gymnasium's is int64 alone")
def test_actions_have_the_dtype_of_the_space() -> None:
    env = Faulty()
    env.action_space = gym.spaces.Discrete(3, dtype=np.int32)
    vector = make_vector(env)
    vector.reset()
    vector.step(np.array([2]))
    assert [(type(action), action) for action in env.actions] == [(np.int32, 2)]
    assert env.action_space.contains(env.actions[0])


# masks


def legal(vector: Any, infos: dict[str, Any]) -> list[list[bool]] | None:
    masks = action_masks(infos, vector.num_envs, 3)
    return None if masks is None else masks.tolist()


def test_masks_that_first_come_with_a_step_are_honoured() -> None:
    world = World(env=lambda: Faulty(step=step(info={"action_mask": [0, 1, 0]})))
    assert world.spec.has_action_masks
    chosen: list[int] = []

    class Recorded(Faulty):
        def step(self, action):
            chosen.append(int(action))
            return step(info={"action_mask": [0, 1, 0]}, truncated=len(chosen) % 5 == 0)

    DQN(Recorded, min_replay_size=10, evaluation_period=1_000, evaluation_episodes=1).learn(30)
    firsts = {0, 1} | {index for index in range(len(chosen)) if index % 5 == 0}  # where none was given, all is legal
    assert {action for index, action in enumerate(chosen) if index not in firsts and (index - 1) % 5} == {1}


class WithoutStep(gym.Env):
    """An env that inherits Gymnasium's step, as one does that a wrapper or an attribute steps."""

    observation_space, action_space = BOX, gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return OBS, {}


class Stepping(gym.Wrapper):
    def step(self, action: Any) -> Any:
        return step(info={"action_mask": [0, 1, 0]})


class StepsByAttribute(WithoutStep):
    def __init__(self) -> None:
        self.step = lambda action: step(info={"action_mask": [0, 1, 0]})


class StepsByParent(type("Parent", (WithoutStep,), {"step": Stepping.step})):  # type: ignore[misc]
    pass


@pytest.mark.parametrize("make", [lambda: Stepping(WithoutStep()), StepsByAttribute, StepsByParent])
def test_masks_are_found_in_steps_that_are_inherited(make: Any) -> None:
    world = World(env=make)
    assert world.spec.has_action_masks
    assert World(env=make()).spec.has_action_masks


def test_a_step_that_is_not_written_yet_is_no_fault_of_the_interface() -> None:
    assert not World(env=WithoutStep).spec.has_action_masks
    fail = raising(NotImplementedError("later"))
    unwritten = type("Unwritten", (WithoutStep,), {"step": lambda self, action: fail(action)})
    with pytest.raises(EnvError, match=r"^Unwritten: step\(\) raised NotImplementedError: later"):
        _ = World(env=unwritten).spec


def test_masks_that_come_later_end_the_training() -> None:
    def later(num_steps: int) -> Any:
        return step(info={"action_mask": [0, 1, 0]} if num_steps == 7 else {})

    with pytest.raises(EnvError, match=r"must come with the first reset or step, got the first one at step 7; give a"):
        DQN(lambda: Faulty(step=later), min_replay_size=10).learn(20)


def test_masks_in_a_dict_observation_are_found() -> None:
    inner = gym.spaces.Box(0, 1, (4,), np.float32)
    space = gym.spaces.Dict({"observation": inner, "action_mask": gym.spaces.Box(0, 1, (3,), np.int8)})
    mask = np.array([1, 0, 1], np.int8)
    obs = {"observation": np.zeros(4, np.float32), "action_mask": mask}
    make = partial(Faulty, reset=(obs, {}), step=step(obs=obs), space=space)
    assert World(env=make).spec.has_action_masks
    vector = make_vector(make, 2)
    shown, infos = vector.reset()
    assert shown.shape == (2, 7)
    assert legal(vector, infos) == [[True, False, True]] * 2
    assert legal(vector, vector.step(np.zeros(2, np.int64))[-1]) == [[True, False, True]] * 2
    vector.close()
    own = partial(make, reset=(obs, {"action_mask": [0, 0, 1]}))
    assert legal(vector, make_vector(own, 2).reset()[1]) == [[False, False, True]] * 2, "the info's comes first"


def test_a_mask_in_an_observation_that_is_none_is_named() -> None:
    space = gym.spaces.Dict({"observation": BOX, "action_mask": gym.spaces.MultiBinary(2)})
    obs = {"observation": OBS, "action_mask": np.ones(2, np.int8)}
    with pytest.raises(EnvError, match=r"env 0's action_mask must have the shape \[3\], got \[2\]"):
        _ = World(env=partial(Faulty, reset=(obs, {}), step=step(obs=obs), space=space)).spec


@pytest.mark.parametrize("other", [[1, 1], {"left": 1}, "all", [[1], [1, 0]]])
def test_a_mask_of_another_kind_in_one_of_several_envs_is_named(other: Any) -> None:
    masks = iter([np.ones(3, bool), other])
    vector = make_vector(lambda: Faulty(reset=(OBS, {"action_mask": next(masks)})), 2)
    with pytest.raises(EnvError, match=r"env 1's action_mask must have the shape \[3\], got"):
        vector.reset()
    vector.close()


def test_a_mask_of_none_is_missing() -> None:
    masks = iter([None, [0, 1, 0]])
    vector = make_vector(lambda: Faulty(reset=(OBS, {"action_mask": next(masks)})), 2)
    assert legal(vector, vector.reset()[1]) == [[True] * 3, [False, True, False]]
    vector.close()


# what comes before the first reset


def test_an_env_without_spaces_and_a_wrapper_that_fails_are_named() -> None:
    class Bare(gym.Env):
        pass

    with pytest.raises(EnvError, match="Bare must have a space as action_space, got None; set it in __init__"):
        make_vector(Bare)
    with pytest.raises(EnvError, match="wrapper Half could not be applied to Faulty: ZeroDivisionError: no"):
        make_vector(
            Faulty,
            wrappers=[
                type("Half", (gym.Wrapper,), {"__init__": lambda self, env: raising(ZeroDivisionError("no"))(0)})
            ],
        )
    with pytest.raises(EnvError, match=r"^Faulty: reset\(\) must return"):
        make_vector(gym.wrappers.TimeLimit(Faulty(reset=OBS), 9)).reset()


@pytest.mark.parametrize(
    ("space", "is_one_hot"),
    [
        (DISCRETE, True),
        (gym.spaces.MultiDiscrete([3, 2]), True),
        (gym.spaces.Tuple((DISCRETE, BITS)), True),
        (DICT, False),
        (gym.spaces.Box(0, 1, (2,), np.int64), False),
        (BOX, False),
    ],
)
def test_flattened_whole_numbers_are_zeros_and_ones(space: gym.Space, is_one_hot: bool) -> None:
    obs = space.sample()
    world = World(env=partial(Faulty, reset=(obs, {}), step=step(obs=obs), space=space))
    assert world.spec.is_one_hot == is_one_hot


def test_a_run_too_short_to_learn_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--env", "torso/Identity-v0", "--steps", "500", "--evaluation-episodes", "1", "--json"]
    assert main(["train", "dqn", *arguments, "--out", str(tmp_path / "run")]) == 0
    reason = "nothing was learnt: the run has 500 steps, and the first update comes after min_replay_size 1,000; train"
    assert reason in caplog.text
    assert reason in capsys.readouterr().out
    assert reason in (tmp_path / "run" / "summary.json").read_text()
