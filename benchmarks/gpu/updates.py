"""Updates on a GPU, eager and as CUDA graphs: ``python benchmarks/gpu/updates.py [--minutes 7] [--rounds 7]``.

Gradient steps on minibatches of 32 with the Nature network, of each algorithm and of PQN, in float32 and bfloat16.
An update is what it is in a training: targets, loss, backward pass, clipping and optimizer; neither replay nor env.
Eager and graph take turns, a hundred updates each; a ratio is the median over the rounds, graph by eager: above 1, the
graph is faster. Sampling and gathering a minibatch is measured beside them; it is not captured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import Cases, cuda_or_exit, deadline, hardware, parser_of
from training_limits import calls_per_s, sampler

from torso.agents import DQNConfig, PQNConfig
from torso.agents.optim.devices import Precision
from torso.agents.optim.executors import ExecutorName, make_executor
from torso.agents.protocols import Executor
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.training_config import TrainingConfig
from torso.agents.value_based.update_trials import trial_rollout, trial_update
from torso.nets import InputSpec, build_network

FRAMES = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
ROWS, ACTIONS = 32, 6
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
EXECUTORS: tuple[ExecutorName, ...] = ("eager", "graph")
NETWORK: dict[str, Any] = {"net": "nature", "hidden": (512,)}


def configs() -> dict[str, TrainingConfig]:
    """Settings by algorithm, all with minibatches of 32."""
    of_dqn = {name: DQNConfig(algorithm=name, batch_size=ROWS, **NETWORK) for name in algorithm_names()}
    return {**of_dqn, "pqn": PQNConfig(num_envs=8, rollout_steps=8, num_minibatches=2, **NETWORK)}


def update_of(
    config: TrainingConfig,
    precision: Precision,
    device: torch.device,
    executor: Executor | None,
    frames: InputSpec = FRAMES,
) -> Callable[[], object]:
    """Return an algorithm's update of one minibatch."""
    network = build_network(q_network_spec(config, frames, ACTIONS), torch.Generator().manual_seed(0))
    trial = trial_rollout if isinstance(config, PQNConfig) else trial_update
    update = trial(config, network, "contiguous", device=device, precision=precision, executor=executor)  # type: ignore[arg-type]
    return lambda: update(ROWS)


def rates(
    updates: dict[str, Callable[[], object]], device: torch.device, *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Updates per second of each, a value a round; they take turns."""
    for update in updates.values():
        calls_per_s(update, device, calls=10)  # three warm a graph up, the fourth captures it
    found: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(rounds):
        for name, update in updates.items():
            found[name].append(round(calls_per_s(update, device, calls=calls), 1))
    return found


def compare(config: TrainingConfig, precision: Precision, device: torch.device, rounds: int) -> dict[str, Any]:
    """Measure the updates of one algorithm, eager and as a graph."""
    updates = {each: update_of(config, precision, device, make_executor(each, device)) for each in EXECUTORS}
    found = rates(updates, device, rounds=rounds, calls=100)
    ratio = statistics.median(graph / eager for eager, graph in zip(found["eager"], found["graph"], strict=True))
    return {"updates_per_s": found, "ratio": round(ratio, 3)}


def sampling(device: torch.device, rounds: int, *, steps: int = 20_000, calls: int = 100, **settings: Any) -> Any:
    """Measure drawing and gathering minibatches from a replay of Atari frames; and new priorities for them."""
    config = DQNConfig(batch_size=ROWS, replay_capacity=steps, num_envs=8, min_replay_size=100, **NETWORK, **settings)
    sample = sampler(config, FRAMES.shape, "uint8", device, frame_stack=4)
    return {"minibatches_per_s": rates({"sample": sample}, device, rounds=rounds, calls=calls)["sample"]}


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of a hundred updates of each")
    arguments = parser.parse_args()
    device = cuda_or_exit()
    is_over = deadline(arguments.minutes)
    about = {"rows": ROWS, "rounds": arguments.rounds, "hardware": hardware(device)}
    cases = Cases("gpu_updates", about, arguments.results, fresh=arguments.fresh)
    todo: dict[str, Callable[[], Any]] = {}
    for precision in PRECISIONS:
        for name, config in configs().items():
            todo[f"{name}, {precision}"] = partial(compare, config, precision, device, arguments.rounds)
    todo["sampling"] = partial(sampling, device, arguments.rounds)
    todo["sampling, prioritized, n_step 3"] = partial(sampling, device, arguments.rounds, prioritized=True, n_step=3)
    cases.measure(todo, is_over)
    report = cases.report
    report.say(f"Updates per second, minibatches of {ROWS}: medians of {arguments.rounds} rounds.")
    report.say()
    rows = []
    for name, case in cases.by_name.items():
        if "ratio" in case:
            eager, graph = (statistics.median(case["updates_per_s"][each]) for each in EXECUTORS)
            rows.append([name, f"{eager:,.0f}", f"{graph:,.0f}", f"{case['ratio']:.2f}"])
        else:
            rows.append([name, f"{statistics.median(case['minibatches_per_s']):,.0f}", "", ""])
    report.table(["update", "eager", "graph", "ratio"], rows)
    report.write()


if __name__ == "__main__":
    main()
