"""Golden traces of training and fitting: ``python tests/golden/make_traces.py [--check] [NAME...]``.

Each trace is a short run on one path through the training core, and the SHA-256 of its weights, its best weights, its
logged figures and its replay rows. ``traces.json`` holds the digests of the version that made them, so that a
refactoring can show that no bit changed. Without ``--check`` this file writes them anew, all or those of the names,
which only a change that is meant to change bits may do; ``--check`` compares and writes nothing.

The bits of float arithmetic depend on the instructions that libraries choose for a CPU. So a trace is made in a process
of its own whose libraries are set to use those that every x86-64 CPU has, and with one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

TRACES = Path(__file__).with_name("traces.json")
# What the bits depend on beside this project; other versions of these may round or draw otherwise.
PACKAGES = ("ale-py", "gymnasium", "numpy", "opencv-python-headless", "safetensors", "scikit-learn", "scipy", "torch")

Digests = dict[str, str]


class KilledError(Exception):
    """Simulates a kill: whatever was not on disk is lost."""


class LightsOut(gym.Env[np.ndarray[Any, Any], np.int64]):
    """Env with action masks: four lamps, of which those that burn may be put out.

    A reward for each, terminated when all are out. The legal actions are in ``info["action_mask"]``; an illegal one is
    an error.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.lamps = self.np_random.integers(2, size=4).astype(np.float32)
        self.lamps[int(self.np_random.integers(4))] = 1.0
        return self.lamps.copy(), self.info()

    def step(self, action: np.int64) -> Any:
        if not self.lamps[action]:
            raise ValueError(f"lamp {action} is out already")
        self.lamps[action] = 0.0
        reward = float(self.np_random.normal(1.0 + float(action)))
        return self.lamps.copy(), reward, not self.lamps.any(), False, self.info()

    def info(self) -> dict[str, Any]:
        over = not self.lamps.any()
        return {"action_mask": np.ones(4, np.int8) if over else self.lamps.astype(np.int8)}


# -- digests of a run -------------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Hash names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def replay_on_disk(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the replay's rows of the latest checkpoint, oldest first."""
    from safetensors.numpy import load_file

    def rows(path: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in path.stem.split("-")[1:])

    named = json.loads((run / "checkpoint" / "latest.json").read_text())["files"]
    segments = [load_file(path) for path in sorted((run / "checkpoint").glob("rows-*"), key=rows) if path.name in named]
    return {name: np.concatenate([segment[name] for segment in segments]) for name in segments[0]}


def lines_of_then(run: Path) -> list[dict[str, Any]]:
    """Read the lines of progress.jsonl with the figures that the version had which made the traces.

    Then the mean target, null before the first update, was the only figure of an update beside the loss.
    """
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    return [figures_of_then(line) for line in lines]


_LATER_FIGURES = ("max_q", "target", "evaluation_min", "evaluation_max")


def figures_of_then(line: Mapping[str, Any]) -> dict[str, Any]:
    """A log line's figures under the names of the version that made the traces."""
    then = {name: value for name, value in line.items() if name not in _LATER_FIGURES}
    return {**then, "target": line.get("target")} if "updates" in line else then


def digests_of_run(run: Path, *, replay: bool = True) -> Digests:
    """Hash the parts of a run directory that a resumed run must reproduce."""
    found = {
        "weights": sha256((run / "model" / "weights.safetensors").read_bytes()),
        "best": sha256((run / "best" / "weights.safetensors").read_bytes()),
        "progress": sha256(b"".join(json.dumps(line).encode() + b"\n" for line in lines_of_then(run))),
    }
    for name in ("model", "best"):
        card = json.loads((run / name / "model.json").read_text())
        known = {key: card.get(key) for key in ("network", "calibration")}
        found[f"{name} card"] = sha256(json.dumps(known, sort_keys=True).encode())
    return found | ({"replay": digest_of_arrays(replay_on_disk(run))} if replay else {})


# -- training ---------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "hidden": (24, 16),
    "batch_size": 16,
    "replay_capacity": 2_000,
    "min_replay_size": 100,
    "learn_period": 4,
    "target_update_period": 50,
    "epsilon_decay_steps": 400,
    "evaluation_period": 250,
    "evaluation_episodes": 3,
    "checkpoint_period": 300,
    "log_period": 50,
    "precision": "float32",
    "memory_format": "contiguous",
    "device": "cpu",
}


def train(path: Path, env: Any, steps: int = 700, *, env_kwargs: Any = None, seed: int = 3, **settings: Any) -> Digests:
    from torso.agents import DQNConfig, World, train_run

    world = World(env=env, env_kwargs=env_kwargs or {})
    train_run(world, DQNConfig(**{**SMALL, **settings}), total_steps=steps, seed=seed, out=path)
    return digests_of_run(path)


def eight_envs(path: Path) -> Digests:
    """A tick of 8 steps holds two phases and two or three target copies, and they fall between each other."""
    return train(path, "CartPole-v1", num_envs=8, target_update_period=3)


def prioritized(path: Path) -> Digests:
    """Priorities over windows of three steps, in a ring that wraps; a dueling head, and partial target updates."""
    return train(
        path,
        "CartPole-v1",
        num_envs=2,
        n_step=3,
        double=True,
        dueling=True,
        prioritized=True,
        updates_per_phase=2,
        replay_capacity=400,
        importance_steps=500,
        target_update_rate=0.3,
    )


def rainbow(path: Path) -> Digests:
    """Noise in acting and in updates, a dueling head of atoms, priorities by divergence."""
    return train(path, "CartPole-v1", algorithm="rainbow", num_envs=2, num_atoms=21, v_min=0.0, v_max=100.0)


def implicit_quantiles(path: Path) -> Digests:
    """Fractions that are drawn, a softmax next policy with its bonus, a ladder of epsilons over the envs."""
    return train(
        path, "CartPole-v1", algorithm="m-iqn", num_envs=3, num_fractions=6, munchausen_tau=0.1, exploration="ladder"
    )


def quantiles(path: Path) -> Digests:
    """Quantiles at even fractions, by two steps, from Boltzmann exploration."""
    return train(
        path, "CartPole-v1", algorithm="qr-dqn", num_envs=2, num_quantiles=8, n_step=2, exploration="boltzmann"
    )


def falling_rate(path: Path) -> Digests:
    """A learning rate that falls within the run."""
    return train(path, "CartPole-v1", num_envs=3, learning_rate_end=1e-5, learning_rate_decay_steps=500)


def normalised(path: Path) -> Digests:
    """Observations scaled by their running moments, layer norm, no clipping of gradients, squared errors."""
    return train(
        path,
        "CartPole-v1",
        num_envs=2,
        normalise_observations=True,
        layer_norm=True,
        max_grad_norm=None,
        huber_delta=None,
    )


def masks(path: Path) -> Digests:
    """Legal actions, in acting, in targets and in the replay."""
    return train(path, LightsOut, num_envs=3, double=True, n_step=2, epsilon_end=0.3)


def lives(path: Path) -> Digests:
    """Atari: stacks of four frames, lost lives, clipped rewards, convolutions; a ring that wraps."""
    return train(
        path,
        "ALE/Breakout-v5",
        420,
        env_kwargs={"protocol": "dqn2015", "max_episode_steps": 150},
        net="nature",
        hidden=(16,),
        num_envs=2,
        n_step=3,
        clip_rewards=True,
        batch_size=8,
        learn_period=12,
        replay_capacity=300,
        min_replay_size=80,
        evaluation_period=400,
        evaluation_episodes=1,
        checkpoint_period=200,
    )


def rollouts(path: Path) -> Digests:
    """PQN on masked rewards of many sizes: normalised observations and rewards, a falling rate, three checkpoints."""
    from torso.agents import PQNConfig, World, train_run

    config = PQNConfig(
        hidden=(16,),
        num_envs=3,
        rollout_steps=16,
        num_minibatches=4,
        learning_rate=1e-3,
        learning_rate_end=1e-4,
        learning_rate_decay_steps=700,
        normalise_observations=True,
        normalise_rewards=True,
        reward_factor=0.5,
        epsilon_decay_steps=300,
        evaluation_period=300,
        evaluation_episodes=2,
        checkpoint_period=200,
        log_period=100,
        precision="float32",
    )
    world = World(env=LightsOut)
    train_run(world, config, total_steps=700, seed=6, out=path)
    return digests_of_run(path, replay=False)


def constructed(path: Path) -> Digests:
    """One constructed env, in memory: cut by two evaluations and by two checkpoints."""
    from torso.agents import DQNConfig, Training, World

    config = DQNConfig(**SMALL)
    training = Training(World(env=gym.make("CartPole-v1")), config, seed=3)
    lines = [event.figures for event in training.run(700) if hasattr(event, "figures")]
    training.save(path / "model", best=False, onnx=False)
    training.save(path / "best", onnx=False)
    ring = training.session.replay
    rows = ring.read_rows(ring.first_row, ring.num_rows)
    return {
        "weights": sha256((path / "model" / "weights.safetensors").read_bytes()),
        "best": sha256((path / "best" / "weights.safetensors").read_bytes()),
        "progress": sha256(json.dumps([figures_of_then(line) for line in lines]).encode()),
        "replay": digest_of_arrays({name: tensor.numpy() for name, tensor in rows.items()}),
    }


def killed(path: Path) -> Digests:
    """Killed twice and resumed; the digests must equal those of the same run without kills."""
    from torso.agents import DQNConfig, World, train_run

    config = DQNConfig(**{**SMALL, "num_envs": 2, "prioritized": True, "n_step": 2, "checkpoint_period": 200})
    world = World(env="CartPole-v1")

    def run(out: Path, until: int, *, resume: bool = False) -> None:
        def on_event(event: Any) -> None:
            if event.total_steps >= until:
                raise KilledError

        train_run(world, config, total_steps=700, seed=5, out=out, resume=resume, on_event=on_event)

    for index, until in enumerate((330, 520)):
        try:
            run(path / "killed", until, resume=index > 0)
        except KilledError:
            continue
        raise AssertionError(f"the run was not killed at {until}")
    run(path / "killed", 10_000, resume=True)
    run(path / "whole", 10_000)
    expected, got = digests_of_run(path / "whole"), digests_of_run(path / "killed")
    if got != expected:
        raise AssertionError(f"a resumed run left {got}, one that was not killed {expected}")
    return got


# -- fits -------------------------------------------------------------------------------------------------------------


def fit_images(path: Path) -> Digests:
    """Augmented images, class weights, dropout, batch norm and calibration; stopped in between and resumed."""
    from torso.agents import ClassifierConfig, fit_run
    from torso.envs import load_dataset

    data = load_dataset("digits")
    config = ClassifierConfig(
        net="cnn",
        hidden=(16,),
        max_epochs=3,
        batch_size=128,
        dropout=0.2,
        batch_norm=True,
        max_shift_px=1.0,
        max_rotation_deg=10.0,
        max_scale=0.1,
        elastic_px=0.5,
        label_smoothing=0.05,
        class_weight="balanced",
        calibration="platt",
        precision="float32",
        memory_format="channels-last",
        device="cpu",
        num_threads=1,
    )
    calls: list[None] = []

    def stop() -> bool:
        calls.append(None)
        return len(calls) == 15

    stopped = fit_run(data, config, seed=7, out=path, stop=stop)
    if stopped.summary is not None:
        raise AssertionError("the fit was not stopped")
    fit_run(data, config, seed=7, out=path, resume=True)
    return digests_of_run(path, replay=False)


def fit_numbers(path: Path) -> Digests:
    """A regression with both penalties, clipped gradients and momentum."""
    from torso.agents import RegressorConfig, fit_run
    from torso.envs import load_dataset

    config = RegressorConfig(
        hidden=(16,),
        activation="tanh",
        optimizer="nesterov",
        learning_rate=0.01,
        schedule="cosine",
        max_epochs=12,
        batch_size=32,
        l1=1e-4,
        l2=1e-3,
        max_grad_norm=1.0,
        precision="float32",
        device="cpu",
        num_threads=1,
    )
    fit_run(load_dataset("diabetes"), config, seed=7, out=path)
    return digests_of_run(path, replay=False)


MAKERS: dict[str, Callable[[Path], Digests]] = {
    "8 envs, target period below a tick": eight_envs,
    "prioritized, n = 3": prioritized,
    "rainbow": rainbow,
    "Munchausen implicit quantiles": implicit_quantiles,
    "quantiles": quantiles,
    "falling learning rate": falling_rate,
    "normalised observations": normalised,
    "action masks": masks,
    "lost lives": lives,
    "constructed env": constructed,
    "killed and resumed": killed,
    "rollouts": rollouts,
    "fit of images": fit_images,
    "fit of numbers": fit_numbers,
}


# -- making and comparing ---------------------------------------------------------------------------------------------


def baseline_instructions() -> dict[str, str]:
    """Environment variables with which torch, oneDNN, MKL, NumPy, OpenBLAS and libm use baseline instructions."""
    config: Any = np.show_config(mode="dicts")
    simd = config["SIMD Extensions"]
    return {
        "ATEN_CPU_CAPABILITY": "default",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",  # of libm
        "MKL_CBWR": "COMPATIBLE",
        "MKL_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": " ".join([*simd.get("found", ()), *simd.get("not found", ())]),
        "OMP_NUM_THREADS": "1",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "OPENBLAS_NUM_THREADS": "1",
    }


def package_versions() -> dict[str, str]:
    return {"machine": platform.machine(), **{name: metadata.version(name) for name in PACKAGES}}


def make_in_process(names: Iterator[str] | list[str]) -> dict[str, Digests]:
    """Make traces in this process, with this CPU's instructions."""
    import torch

    torch.set_num_threads(1)
    made = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made[name] = MAKERS[name](Path(folder) / "run")
    return made


def make(names: list[str], environment: Mapping[str, str] | None = None) -> dict[str, Digests]:
    """Make traces in a new process with baseline instructions, or with those of ``environment``."""
    chosen = baseline_instructions() if environment is None else environment
    code = [sys.executable, __file__, "--here", *names]
    done = subprocess.run(code, env={**os.environ, **chosen}, stdout=subprocess.PIPE, text=True, check=True)
    made: dict[str, Digests] = json.loads(done.stdout.splitlines()[-1])
    return made


def differences(expected: Mapping[str, Digests], got: Mapping[str, Digests]) -> list[str]:
    """Describe each digest that changed, one a line."""
    return [
        f"{name}: {part} was {digest[:12]}, now {got[name].get(part, 'missing')[:12]}"
        for name in got
        for part, digest in expected[name].items()
        if got[name].get(part) != digest
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}; none: all of them")
    parser.add_argument("--check", action="store_true", help="compare with traces.json; exit 1 where a bit moved")
    parser.add_argument("--here", action="store_true", help="print those of this process, with this CPU's instructions")
    arguments = parser.parse_args()
    names = arguments.names or list(MAKERS)
    if unknown := [name for name in names if name not in MAKERS]:
        sys.exit(f"error: unknown trace {unknown[0]!r}; known are {', '.join(MAKERS)}")
    if arguments.here:
        print(json.dumps(make_in_process(names)))
    elif arguments.check:
        moved = differences(json.loads(TRACES.read_text())["traces"], make(names))
        print(*(moved or [f"{len(names)} traces: every bit as before"]), sep="\n")
        sys.exit(1 if moved else 0)
    else:
        kept = json.loads(TRACES.read_text())["traces"] if arguments.names else {}
        made = {"made_with": package_versions(), "traces": {**kept, **make(names)}}
        TRACES.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
