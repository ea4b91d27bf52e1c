"""Training runs: the same bits from the same seed, whether or not they were stopped, killed and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from diary import Diary, DiaryEnv
from transitions import Transition

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.optim.states import state_of_parts
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.events import Checkpointed, Evaluated, TrainingEvent
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import read_jsonl
from torso.agents.training.driver import Training
from torso.agents.training.session import Session
from torso.agents.training.train_runs import open_run, train_run
from torso.agents.value_based.config import DQNConfig
from torso.envs import IdentityEnv
from torso.envs.vector.world import World
from torso.errors import CheckpointError, ConfigError, EnvError, RunError, StorageError, TorsoError
from torso.nets import Predictor, onnx_path, read_card

WORLD = World(env="CartPole-v1")
CONFIG = DQNConfig(
    hidden=(16,),
    learning_rate=2e-3,
    batch_size=8,
    replay_capacity=250,  # wraps
    min_replay_size=40,
    learn_period=4,
    target_update_period=30,
    epsilon_decay_steps=300,
    evaluation_period=90,
    evaluation_episodes=4,
    checkpoint_period=120,
    log_period=50,
)
STEPS = 400
Figures = dict[str, Any]


def bits(training: Training) -> Figures:
    """State of a training: weights, moments, generators, replay, counts."""
    session = training.session
    state, tensors = state_of_parts(session.parts())
    replay = session.replay
    rows = replay.read_rows(replay.first_row, replay.num_rows)
    tensors = {**tensors, **{f"replay/{name}": rows[name] for name in rows}}
    return {**state, "num_rows": replay.num_rows, **{name: t.numpy().tobytes() for name, t in tensors.items()}}


def left_behind(path: Path) -> Figures:
    """Content of a run directory, without times and random names."""
    contents: Figures = {}
    for name in ("progress.jsonl", "model/weights.safetensors", "best/weights.safetensors"):
        contents[name] = (path / name).read_bytes()
    contents["best"] = read_card(path / "best").provenance["total_steps"]
    checkpoint = CheckpointStore(path / "checkpoint").load()
    assert checkpoint is not None
    contents["checkpoint"] = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()}
    contents["state"] = {name: value for name, value in checkpoint.state.items() if name != "tracker"}
    return contents


def in_memory(config: DQNConfig = CONFIG, *until: int, seed: int = 0, world: World = WORLD) -> Training:
    training = Training(world, config, seed=seed)
    for steps in until or (STEPS,):
        for _ in training.run(steps):
            pass
    return training


def train(
    path: Path,
    config: DQNConfig = CONFIG,
    total_steps: int = STEPS,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> list[TrainingEvent]:
    """Train as ``train_run`` does, without its score, plots and exports, which take longer than the rest."""
    with open_run(WORLD, config, total_steps=total_steps, seed=0, out=path, resume=resume) as run:
        return list(Training(WORLD, config, seed=0, run=run).run(total_steps, stop))


def finish(path: Path, resume: bool = False, **options: Any) -> dict[str, Any] | None:
    return train_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=path, resume=resume, **options).summary


def kill(path: Path, at: Callable[[TrainingEvent], bool], config: DQNConfig = CONFIG, resume: bool = False) -> None:
    """Train until an event, then drop everything: the files are as a kill would leave them."""
    with open_run(WORLD, config, total_steps=STEPS, seed=0, out=path, resume=resume) as run:
        events = Training(WORLD, config, seed=0, run=run).run(STEPS)
        assert any(at(event) for event in events), "the event did not come"
        events.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(path)
    return path


# -- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"num_envs": 3, "double": True}, {"precision": "bfloat16"}], ids=str)
def test_the_same_seed_gives_the_same_bits(settings: Figures) -> None:
    config = replace(CONFIG, **settings)
    once = bits(in_memory(config, 250))
    assert once == bits(in_memory(config, 250))
    other = bits(in_memory(config, 250, seed=1))
    assert not any(once[name] == other[name] for name in ("learner/online/head.linear.weight", "replay/obs"))
    explorers = [each["collector"]["explorer"]["rng"] for each in (once, other)]
    assert explorers[0] != explorers[1]


def test_neither_the_processes_threads_nor_its_random_state_change_a_bit() -> None:
    once, threads = bits(in_memory(CONFIG, 200)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(123)
        state = torch.get_rng_state()
        training = Training(WORLD, CONFIG, seed=0)
        assert {torch.get_num_threads() for _ in training.run(200)} == {CONFIG.num_threads}
        assert bits(training) == once
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_run_directory_changes_no_bit(tmp_path: Path, num_envs: int) -> None:
    config = replace(CONFIG, num_envs=num_envs)
    training = in_memory(config)
    with open_run(WORLD, config, total_steps=STEPS, seed=0, out=tmp_path / "run", resume=False) as run:
        written = Training(WORLD, config, seed=0, run=run)
        for _ in written.run(STEPS):
            pass
        assert bits(training) == bits(written)
        assert training.score(5) == written.score(5)


# -- killed and resumed ----------------------------------------------------------------------------------------------


def after(kind: type[TrainingEvent], step: int) -> Callable[[TrainingEvent], bool]:
    return lambda event: isinstance(event, kind) and event.total_steps >= step


@pytest.mark.parametrize(
    "at",
    [
        after(Checkpointed, 120),
        after(Evaluated, 180),  # and best/ is of steps that the resume makes again
        after(Checkpointed, 240),
        after(Evaluated, 270),
        after(Checkpointed, 360),
        after(Evaluated, 400),  # before the last checkpoint
        after(Checkpointed, 400),  # before the scores
    ],
    ids=["120", "180", "240", "270", "360", "evaluated", "trained"],
)
def test_a_killed_run_that_is_resumed_leaves_what_an_uninterrupted_one_leaves(
    tmp_path: Path, uninterrupted: Path, at: Callable[[TrainingEvent], bool]
) -> None:
    kill(tmp_path / "run", at)
    train(tmp_path / "run", resume=True)
    assert left_behind(tmp_path / "run") == left_behind(uninterrupted)


@pytest.mark.parametrize("at", [after(Evaluated, 180), after(Checkpointed, 400)], ids=["180", "trained"])
def test_its_final_figures_are_the_same_too(
    tmp_path: Path, uninterrupted: Path, at: Callable[[TrainingEvent], bool]
) -> None:
    kill(tmp_path / "run", at)
    assert RunDirectory.open(tmp_path / "run").read_summary() is None
    summary = finish(tmp_path / "run", resume=True)
    assert summary == RunDirectory.open(tmp_path / "run").read_summary()
    assert (tmp_path / "run" / "summary.json").read_bytes() == (uninterrupted / "summary.json").read_bytes()


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path, uninterrupted: Path) -> None:
    kill(tmp_path / "run", after(Evaluated, 90))
    train(tmp_path / "run", resume=True)
    assert left_behind(tmp_path / "run") == left_behind(uninterrupted)


def test_any_number_of_kills_changes_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    for index, step in enumerate((130, 130, 250, 390)):
        kill(tmp_path / "run", lambda event, step=step: event.total_steps >= step, resume=index > 0)
    train(tmp_path / "run", resume=True)
    assert left_behind(tmp_path / "run") == left_behind(uninterrupted)


def test_several_envs_resume_too(tmp_path: Path) -> None:
    config = replace(CONFIG, num_envs=3, double=True)
    train(tmp_path / "whole", config)
    kill(tmp_path / "killed", after(Evaluated, 270), config)
    train(tmp_path / "killed", config, resume=True)
    assert left_behind(tmp_path / "killed") == left_behind(tmp_path / "whole")


def test_the_last_evaluation_is_not_lost_where_the_run_ends_on_a_planned_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_period=200)  # and 400 is no multiple of the evaluation period
    train(tmp_path / "whole", config)
    assert [line["step"] for line in read_jsonl(tmp_path / "whole" / "progress.jsonl")][-1] == 400
    assert left_behind(tmp_path / "whole")["state"]["parts"]["figures"]["cuts"] == []
    kill(tmp_path / "killed", after(Checkpointed, 400), config)
    train(tmp_path / "killed", config, resume=True)
    assert left_behind(tmp_path / "killed") == left_behind(tmp_path / "whole")


def test_the_best_model_is_never_one_of_steps_that_were_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "run"
    kill(path, after(Checkpointed, 120))
    best_at_90 = (path / "best" / "weights.safetensors").read_bytes()
    kill(path, lambda e: isinstance(e, Evaluated) and e.is_best and e.total_steps < 240, resume=True)
    assert (path / "best" / "weights.safetensors").read_bytes() != best_at_90
    train(path, resume=True, stop=lambda: True)  # one step on from the checkpoint at 120
    checkpoint = CheckpointStore(path / "checkpoint").load()
    assert checkpoint is not None
    assert checkpoint.step == 121
    assert (path / "best" / "weights.safetensors").read_bytes() == best_at_90
    assert read_card(path / "best").provenance["total_steps"] == checkpoint.state["parts"]["best"]["step"] == 90


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, uninterrupted: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "run"
    kill(path, after(Checkpointed, 240))
    before = left_behind(path)
    with largest_file(2_000), pytest.raises(StorageError):
        train(path, resume=True)
    assert left_behind(path)["checkpoint"] == before["checkpoint"]
    train(path, resume=True)
    assert left_behind(path) == left_behind(uninterrupted)


# -- stopped and resumed ---------------------------------------------------------------------------------------------


def stop_after(ticks: int) -> Callable[[], bool]:
    asked = iter(range(ticks))
    return lambda: next(asked, None) is None


def test_a_stop_is_a_cut_that_is_recorded_and_repeats_exactly(tmp_path: Path, uninterrupted: Path) -> None:
    paths = [tmp_path / name for name in ("resumed", "again", "killed")]
    for path in paths:
        events = train(path, stop=stop_after(150))
        stopped_at = events[-1].total_steps
        assert isinstance(events[-1], Checkpointed)
        assert 120 < stopped_at < 151  # ticks that reset are no steps
    for path in paths[:2]:
        train(path, resume=True)
    kill(paths[2], after(Evaluated, 180), resume=True)  # back to the stop, which no period asked for
    train(paths[2], resume=True)
    assert left_behind(paths[0])["state"]["parts"]["figures"]["cuts"] == [stopped_at, STEPS]
    assert left_behind(paths[0]) == left_behind(paths[1]) == left_behind(paths[2])
    assert left_behind(paths[0])["progress.jsonl"] != left_behind(uninterrupted)["progress.jsonl"]


def test_a_stop_at_a_planned_checkpoint_changes_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    events: list[TrainingEvent] = []
    summary = finish(
        tmp_path / "run",
        on_event=events.append,
        stop=lambda: isinstance(events[-1], Checkpointed) if events else False,
    )
    assert summary is None
    assert [event.total_steps for event in events if isinstance(event, Checkpointed)] == [120]
    train(tmp_path / "run", resume=True)
    assert left_behind(tmp_path / "run") == left_behind(uninterrupted)


def test_a_stop_in_the_last_tick_comes_too_late(tmp_path: Path, uninterrupted: Path) -> None:
    made = 0

    def stop() -> bool:
        nonlocal made
        made += 1
        return made >= ticks

    ticks = sum(1 for _ in count_ticks())
    assert finish(tmp_path / "run", stop=stop) is not None
    assert made == ticks
    assert left_behind(tmp_path / "run") == left_behind(uninterrupted)


def count_ticks() -> list[int]:
    ticks: list[int] = []
    training = Training(WORLD, CONFIG, seed=0)
    for _ in training.run(STEPS, lambda: ticks.append(1) is not None):
        pass
    return ticks


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path: Path) -> None:
    train(tmp_path / "run", total_steps=250)
    train(tmp_path / "run", resume=True)
    with RunDirectory.open(tmp_path / "run") as run:
        assert run.settings["total_steps"] == STEPS
        extended = Training(WORLD, CONFIG, seed=0, run=run)
    training = in_memory(CONFIG, 250, STEPS)
    assert bits(extended) == bits(training)
    assert extended.session.figures.cuts == [250, STEPS]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path, uninterrupted: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    assert train(tmp_path / "run", resume=True) == []
    assert left_behind(tmp_path / "run") == left_behind(uninterrupted)


def test_a_return_that_is_enough_ends_the_run_and_more_goes_on(tmp_path: Path) -> None:
    events = train(tmp_path / "run", replace(CONFIG, stop_return=1.0))
    assert [type(event) for event in events[-2:]] == [Evaluated, Checkpointed]
    assert events[-1].total_steps == 90
    assert left_behind(tmp_path / "run")["state"]["parts"]["figures"]["cuts"] == [90]
    assert train(tmp_path / "run", replace(CONFIG, stop_return=1.0), resume=True) == []
    events = train(tmp_path / "run", replace(CONFIG, stop_return=1e6), resume=True)
    assert events[-1].total_steps == STEPS


def test_what_auto_settings_chose_is_kept_on_resume(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_period=None)
    train(tmp_path / "run", config, stop=lambda: True)
    path = tmp_path / "run" / "config.json"
    recorded = json.loads(path.read_text())
    assert recorded["resolved"] == {
        "device": "cpu",
        "precision": "float32",
        "executor": "eager",
        "checkpoint_period": 20_000,
    }
    recorded["resolved"]["checkpoint_period"] = 150  # as if a torso with another default had begun it
    path.write_text(json.dumps(recorded))
    events = train(tmp_path / "run", config, resume=True)
    assert [event.total_steps for event in events if isinstance(event, Checkpointed)] == [150, 300, 400]


def test_first_weights_of_another_model_survive_a_kill_before_the_first_checkpoint(tmp_path: Path) -> None:
    network = in_memory(CONFIG, 100, seed=9).session.learner.online
    expected = Training(WORLD, CONFIG, seed=0, network=network)
    for _ in expected.run(STEPS):
        pass
    with open_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=tmp_path / "run", resume=False) as run:
        next(iter(Training(WORLD, CONFIG, seed=0, run=run, network=network).run(STEPS)))
    train(tmp_path / "run", resume=True)
    with RunDirectory.open(tmp_path / "run") as run:
        assert bits(Training(WORLD, CONFIG, seed=0, run=run)) == bits(expected)


def test_first_weights_of_another_shape_are_refused() -> None:
    network = Session(WORLD, CONFIG, seed=0, device=torch.device("cpu"), precision="float32").learner.online
    with pytest.raises(ConfigError, match="the initial weights must be of"):
        Training(WORLD, replace(CONFIG, hidden=(17,)), seed=0, network=network)


# -- what a run leaves behind ----------------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_should(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert names == {
        *("config.json", "progress.jsonl", "timing.jsonl", "tensorboard", "model", "best", "checkpoint"),
        *("summary.json", "learning_curve.png"),
    }
    assert (uninterrupted / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert onnx_path(uninterrupted / "best") is not None
    assert onnx_path(uninterrupted / "model") is not None
    lines = read_jsonl(uninterrupted / "progress.jsonl")
    logs, evaluations = [[line for line in lines if name in line] for name in ("epsilon", "evaluation_return")]
    assert [line["step"] for line in logs] == list(range(50, 401, 50))
    assert [line["step"] for line in evaluations] == [90, 180, 270, 360, 400]
    assert [line["epsilon"] for line in logs] == pytest.approx([CONFIG.epsilon(step) for step in range(50, 401, 50)])
    assert [line["updates"] for line in logs] == [step // 4 - 9 for step in range(50, 401, 50)]
    assert all(line["loss"] > 0 for line in logs)
    assert all(np.isfinite(line["target"]) for line in logs)
    assert [line["episode_length"] for line in logs] == [line["episode_return"] for line in logs]  # as CartPole rewards
    assert len(read_jsonl(uninterrupted / "timing.jsonl")) == len(lines)


def test_the_summary_is_of_the_best_model_on_fresh_seeds(uninterrupted: Path) -> None:
    summary = json.loads((uninterrupted / "summary.json").read_text())
    evaluations = [line for line in read_jsonl(uninterrupted / "progress.jsonl") if "evaluation_return" in line]
    best = max(evaluations, key=lambda line: (line["evaluation_return"], line["step"]))  # of equals, the later
    assert (summary["best_step"], summary["selection_mean_return"]) == (best["step"], best["evaluation_return"])
    assert [line["step"] for line in evaluations if line["is_best"]][-1] == best["step"]
    predictor = Predictor.load(uninterrupted)
    assert predictor.card.provenance["total_steps"] == best["step"]
    score = evaluate(predictor.act, WORLD, evaluation_seeds(0, 4, "score"))
    assert summary["score"] == score.to_json()
    chosen = evaluate(predictor.act, WORLD, evaluation_seeds(0, 4, "selection"))
    assert chosen.mean == best["evaluation_return"]
    assert summary["num_updates"] == 91
    assert summary["cuts"] == [400]


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "changed", "error", "named"),
    [
        (World(env="CartPole-v7"), {}, EnvError, "did you mean"),
        (World(env="Pendulum-v1"), {}, EnvError, "Discrete"),
        (
            World(env=gym.make("CartPole-v1")),
            {},
            ConfigError,
            r"must be one that can be built anew, got the constructed env CartPole-v1",
        ),
        (WORLD, {"total_steps": 0}, ConfigError, "at least 1, got 0"),
        (WORLD, {"seed": -1}, ConfigError, "seed must not be negative"),
        (WORLD, {"config": replace(CONFIG, net="nature")}, ConfigError, "image"),
        (WORLD, {"config": replace(CONFIG, device="tpu")}, ConfigError, "device must be auto, cpu or cuda"),
    ],
    ids=["env", "actions", "constructed", "steps", "seed", "net", "device"],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, world: World, changed: Figures, error: type[TorsoError], named: str
) -> None:
    options = {"config": CONFIG, "total_steps": STEPS, "seed": 0, "out": tmp_path / "run", **changed}
    with pytest.raises(error, match=named):
        train_run(world, options.pop("config"), **options)
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match="not a run"):
            train(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_is_not_resumed_as_another(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(path, total_steps=60)
    before = left_behind(path), (path / "config.json").read_bytes()
    with pytest.raises(RunError, match="resume=True"):
        train(path, total_steps=60)
    with pytest.raises(RunError, match=r"gamma was 0\.99, now 0\.5"):
        train(path, replace(CONFIG, gamma=0.5), resume=True)
    wrapped = World(env="CartPole-v1", wrappers=[gym.wrappers.FlattenObservation])
    with pytest.raises(RunError, match="wrappers"):
        train_run(wrapped, CONFIG, total_steps=60, seed=0, out=path, resume=True)
    with pytest.raises(
        ConfigError, match=r"total_steps must be at least the 60 steps that .* has made already, got 59"
    ):
        train(path, total_steps=59, resume=True)
    assert (left_behind(path), (path / "config.json").read_bytes()) == before


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", total_steps=60)
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoint").load()
    assert checkpoint is not None
    wider = Session(WORLD, replace(CONFIG, hidden=(17,)), seed=0, device=torch.device("cpu"), precision="float32")
    with pytest.raises(CheckpointError, match="another network"):
        wider.restore(checkpoint)
    checkpoint.state["parts"]["best"].pop("step")
    session = Session(WORLD, CONFIG, seed=0, device=torch.device("cpu"), precision="float32")
    with pytest.raises(CheckpointError, match="lacks 'step'"):
        session.restore(checkpoint)


# -- one constructed env ---------------------------------------------------------------------------------------------


def transitions_in(training: Training) -> set[Transition]:
    """All transitions of the one env's replay."""
    replay = training.session.replay
    row = torch.tensor(replay.start_rows(1))
    batch = replay.transitions(row, torch.zeros_like(row), gamma=0.5)
    columns = zip(*(tensor.tolist() for tensor in batch if tensor is not None), strict=True)
    return {Transition(tuple(s), a, r, d == 0, tuple(s_t)) for s, a, r, d, s_t, weight in columns if weight}


def test_evaluations_in_the_one_constructed_env_do_not_disturb_what_is_learnt() -> None:
    """They play in the training env itself; no transition may lead from the one into the other."""
    diary = Diary()
    config = replace(CONFIG, replay_capacity=5_000, evaluation_period=7, evaluation_episodes=2, checkpoint_period=50)
    training = in_memory(config, 150, world=World(env=DiaryEnv(diary)))
    assert (diary.made, diary.closed) == (1, 0)
    found = transitions_in(training)
    assert len(found) == training.total_steps
    assert found < set(diary.transitions)


def test_one_constructed_env_is_one_env() -> None:
    with pytest.raises(ConfigError, match=r"num_envs must be 1 for .*, which is one constructed env, got 2"):
        in_memory(replace(CONFIG, num_envs=2), 50, world=World(env=IdentityEnv()))


def test_a_training_that_was_abandoned_goes_on_without_a_false_transition() -> None:
    diary = Diary()
    training = Training(World(env=lambda: DiaryEnv(diary)), replace(CONFIG, replay_capacity=5_000), seed=0)
    for steps in (60, 130, 170):
        for event in training.run(STEPS):
            if event.total_steps >= steps:
                break
    for _ in training.run(220):
        pass
    found = transitions_in(training)
    assert training.total_steps - 3 <= len(found) <= training.total_steps
    assert found < set(diary.transitions)
    assert np.isfinite(training.score(3).returns).all()


# -- losses that are not finite, episodes that are cut ---------------------------------------------------------------


class GrowsTooLarge(gym.Env):
    """Rewards 1 a step, and from its 150th step on so much that the square is no float32."""

    steps = 0

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        GrowsTooLarge.steps += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        reward = 1e30 if GrowsTooLarge.steps >= 150 else 1.0
        return obs, reward, bool(self.np_random.random() < 0.1), False, {}


def test_a_loss_that_is_not_finite_stops_the_run_at_its_last_good_checkpoint(tmp_path: Path) -> None:
    GrowsTooLarge.steps = 0
    periods = {"evaluation_period": 10_000, "checkpoint_period": 60, "log_period": 10_000}
    config = replace(CONFIG, **periods, stop_return=None, huber_delta=None)
    world = World(env=GrowsTooLarge)
    with pytest.raises(
        ConfigError, match=r"the loss must be finite, got (inf|nan) by step \d+: the training diverged; lower"
    ):
        train_run(world, config, total_steps=400, seed=0, out=tmp_path / "run")
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoint").load()
    assert checkpoint is not None
    assert checkpoint.step == 120
    for name, tensor in checkpoint.tensors.items():
        assert not tensor.is_floating_point() or tensor.isfinite().all(), name
    assert not (tmp_path / "run" / "best").exists()
    assert "NaN" not in (tmp_path / "run" / "progress.jsonl").read_text()


def test_episodes_that_a_checkpoint_cuts_are_counted_apart(tmp_path: Path) -> None:
    summary = finish(tmp_path / "run")
    assert summary is not None
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoint").load()
    assert checkpoint is not None
    assert summary["num_cut_episodes"] == checkpoint.state["parts"]["figures"]["num_cut_episodes"] > 0
    cut = in_memory(CONFIG, 100)
    begun = cut.session.core.collector.unfinished()
    assert begun == ()  # the end of a run is a cut
    assert cut.session.figures.num_cut_episodes > 0
