"""The setting memory_format: resolved by measurement or as it says, refused where it has no meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from torso.agents import ClassifierConfig, DQNConfig
from torso.agents.optim import memory_formats
from torso.agents.optim.memory_formats import resolve_memory_format
from torso.errors import ConfigError
from torso.nets import (
    ConvLayerSpec,
    ConvNetSpec,
    InputSpec,
    MLPSpec,
    Network,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    register_torso,
)
from torso.nets.modules.layers import MemoryFormat

CPU = torch.device("cpu")
IMAGE = InputSpec(shape=(2, 6, 6), dtype="uint8", layout="chw", scale=1 / 255)
CONVS = ConvNetSpec(convs=(ConvLayerSpec(channels=3, kernel=3),), hidden=(4,))


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    takes_images: ClassVar[bool] = True


class View(nn.Module):
    """A torso whose activations must be contiguous."""

    def __init__(self, spec: ViewSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], 2, 3)
        self.num_features = 2 * (input_shape[1] - 2) * (input_shape[2] - 2)

    def forward(self, x: Tensor, state: Any, generator: torch.Generator | None) -> tuple[Tensor, Any]:
        return self.conv(x).view(len(x), self.num_features), state


@pytest.fixture(autouse=True)
def fresh(registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    register_torso("view-of-a-test", ViewSpec, View)
    monkeypatch.setattr(memory_formats, "_measured", {})


def spec_of(torso: Any = CONVS, network_input: InputSpec = IMAGE) -> NetworkSpec:
    return NetworkSpec(input=network_input, torso=torso, head=ScalarHeadSpec(num_actions=2))


class Trials:
    """Counts the forwards that are measured, by format; draws from the process' generator, as a torso may."""

    def __init__(self) -> None:
        self.rows: dict[MemoryFormat, list[int]] = {"contiguous": [], "channels-last": []}

    def __call__(self, network: Network, memory_format: MemoryFormat) -> Callable[[int], object]:
        def run(rows: int) -> None:
            self.rows[memory_format].append(rows)
            torch.rand(3)
            network(torch.zeros((rows, *IMAGE.shape), dtype=torch.uint8))

        return run


def resolve(setting: str, spec: NetworkSpec | None = None, trials: Trials | None = None, **changed: Any) -> Any:
    spec = spec_of() if spec is None else spec
    options: dict[str, Any] = {
        **{"rows": 8, "usual": "contiguous", "device": CPU, "precision": "float32", "num_threads": 1},
        **changed,
    }
    return resolve_memory_format(
        setting, spec, lambda: build_network(spec, torch.Generator()), trials or Trials(), **options
    )


@pytest.mark.parametrize("setting", ["contiguous", "channels-last"])
def test_a_format_that_is_given_is_taken_and_nothing_measured(setting: str) -> None:
    trials = Trials()
    assert resolve(setting, trials=trials) == setting
    assert trials.rows == {"contiguous": [], "channels-last": []}


def test_auto_measures_both_formats_once_in_a_process() -> None:
    trials, state = Trials(), torch.random.get_rng_state()
    found = resolve("auto", trials=trials)
    assert found in ("contiguous", "channels-last")
    assert torch.equal(torch.random.get_rng_state(), state)  # a measurement changes no bit of what follows
    assert trials.rows["contiguous"] == trials.rows["channels-last"]
    assert trials.rows["contiguous"][-1] == 8
    again = Trials()
    assert resolve("auto", trials=again) == found
    assert again.rows == {"contiguous": [], "channels-last": []}
    for changed in ({"rows": 16}, {"precision": "bfloat16"}, {"num_threads": 2}):
        other = Trials()
        resolve("auto", trials=other, **changed)
        assert other.rows["contiguous"]


@pytest.mark.parametrize(
    "spec", [spec_of(MLPSpec(), InputSpec(shape=(3,))), spec_of(MLPSpec())], ids=["vectors", "images"]
)
def test_without_convolutions_there_is_nothing_to_choose(spec: NetworkSpec) -> None:
    trials = Trials()
    assert resolve("auto", spec, trials) is None
    assert resolve("contiguous", spec, trials) is None
    assert trials.rows == {"contiguous": [], "channels-last": []}
    with pytest.raises(ConfigError, match="memory_format must be auto or contiguous for a network without conv"):
        resolve("channels-last", spec)


def test_a_torso_that_needs_contiguous_images_gets_them() -> None:
    spec, trials = spec_of(ViewSpec()), Trials()
    assert resolve("auto", spec, trials) == "contiguous"
    assert resolve("auto", spec, trials, usual="channels-last") == "contiguous"
    assert trials.rows == {"contiguous": [], "channels-last": []}
    message = "memory_format must be auto or contiguous for the torso View, which .*view size.*use reshape or flatten"
    with pytest.raises(ConfigError, match=message):
        resolve("channels-last", spec)


@pytest.mark.parametrize("config_class", [DQNConfig, ClassifierConfig])
@pytest.mark.parametrize("value", ["channels_last", "nhwc", "", None, True, 1])
def test_other_values_are_refused(config_class: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match="memory_format must be one of auto, contiguous, channels-last"):
        config_class(memory_format=value)


def test_other_values_are_refused_where_they_are_resolved() -> None:
    with pytest.raises(ConfigError, match="memory_format must be one of auto, contiguous, channels-last; got 'nhwc'"):
        resolve("nhwc")
