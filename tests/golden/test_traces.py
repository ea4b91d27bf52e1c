"""Golden traces: training and fitting reproduce, bit for bit, what `make_traces.py` wrote into ``traces.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from make_traces import MAKERS, TRACES, Digests, differences, make, make_in_process, package_versions, train

GOLDEN = json.loads(TRACES.read_text())


@pytest.fixture(scope="module")
def traces() -> dict[str, Digests]:
    made_with, here = GOLDEN["made_with"], package_versions()
    if here != made_with:
        others = sorted(name for name in made_with if here[name] != made_with[name])
        pytest.skip(f"the golden traces are of other versions of {', '.join(others)}, which may round otherwise")
    return make(list(MAKERS))


def test_every_trace_is_golden() -> None:
    assert set(GOLDEN["traces"]) == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_no_bit_moved(name: str, traces: dict[str, Digests]) -> None:
    assert set(traces[name]) == set(GOLDEN["traces"][name])
    assert differences(GOLDEN["traces"], {name: traces[name]}) == []


def test_another_seed_moves_every_part_of_a_trace(tmp_path: Path) -> None:
    """The digests are of the weights, figures and rows themselves, not of something that is always the same."""
    one, other = (train(tmp_path / str(seed), "CartPole-v1", 300, seed=seed) for seed in (1, 2))
    assert {part for part in one if one[part] == other[part]} == {"model card", "best card"}
    [line] = [line for line in differences({"run": one}, {"run": other}) if "weights" in line]
    assert line.startswith(f"run: weights was {one['weights'][:12]}, now ")


def test_a_trace_is_made_in_this_process_too() -> None:
    [digests] = make_in_process(["falling learning rate"]).values()
    assert set(digests) == set(GOLDEN["traces"]["falling learning rate"])
