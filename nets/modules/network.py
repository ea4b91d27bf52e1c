"""Network: input scaling, a torso and a head; built from a specification."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from torso.arrays import Array
from torso.checks import each, number, positive
from torso.errors import SpecError
from torso.nets.modules.heads import Head, Prediction
from torso.nets.modules.initialisation import Init, initialise
from torso.nets.modules.layers import InputScaling, MemoryFormat
from torso.nets.modules.torsos import MLP, ConvNet
from torso.nets.specs.network import NetworkSpec
from torso.nets.specs.registry import HEADS, TORSOS, State

_global_generator_lock = threading.Lock()  # held while the global generator has another seed


class Network(nn.Module):
    """Network of input scaling, torso and head: ``network(obs, state, generator) -> (prediction, state)``.

    ``obs`` is ``[B, *spec.input.shape]`` in the input's own dtype, raw; ``state`` is an empty tuple for feed-forward
    networks; ``generator`` is used by dropout and by heads that draw, and may be None in evaluation.

    A network is recurrent (``is_recurrent``) where its torso defines ``initial_state(batch_size)``, which returns the
    state at an episode's start: a tuple of tensors [B, ...], every row the same. An empty tuple then stands for that.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scaling = InputScaling(spec.input)
        self.torso = TORSOS.of(spec.torso).build(spec.torso, spec.input.tensor_shape)
        num_features = getattr(self.torso, "num_features", None)
        if not isinstance(num_features, int):
            raise SpecError(
                f"the torso {type(self.torso).__name__} must have an int attribute num_features, got {num_features!r}"
            )
        self.is_recurrent = bool(self.initial_state(1))
        head = HEADS.of(spec.head).build(spec.head, num_features)
        if not isinstance(head, Head):
            raise SpecError(f"the head {type(head).__name__} must be a ValueHead, a LabelHead or a TargetHead")
        self.head = head
        self.reads_out_float64 = bool(getattr(head, "reads_out_float64", False))
        self.torso_is_frozen = False  # until `freeze_torso`

    def train(self, mode: bool = True) -> Self:
        """Set training mode, as of any module; a frozen torso stays in evaluation mode."""
        super().train(mode)
        if self.torso_is_frozen:
            self.torso.eval()
        return self

    @property
    def has_convolutions(self) -> bool:
        """Whether the torso takes images and has weights of four axes, so that its images have a memory format."""
        return self.spec.input.layout is not None and any(weight.dim() == 4 for weight in self.torso.parameters())

    @property
    def memory_format(self) -> MemoryFormat:
        """Memory format in which images enter the torso; ``contiguous``: as the observations lie in memory."""
        return "channels-last" if self.scaling.channels_last else "contiguous"

    def set_memory_format(self, memory_format: MemoryFormat) -> Self:
        """Set the memory format of images and of the convolutions' weights; outputs change by rounding alone.

        It is no part of the specification: a saved network has none. It is set before an optimizer takes the weights.
        """
        self.scaling.channels_last = memory_format == "channels-last"
        layout = torch.channels_last if self.scaling.channels_last else torch.contiguous_format
        for weight in self.torso.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.to(memory_format=layout)
        return self

    def forward(
        self, obs: Tensor, state: State = (), generator: torch.Generator | None = None
    ) -> tuple[Prediction, State]:
        """Compute a prediction. ``obs``: [B, *shape] raw. Returns the head's prediction and the next state."""
        return self.answer(self.scaling(obs), state, generator)

    def mixed(
        self, obs: Tensor, state: State = (), generator: torch.Generator | None = None
    ) -> tuple[Prediction, State]:
        """Compute `forward` with convolutions and large products in bfloat16; the head's output stays in float32.

        Features tolerate the rounding; an expected return of 100, rounded to bfloat16's 8 bits, may be off by a
        quarter. A user's own torso computes under autocast.
        """
        if type(self.torso) is ConvNet and obs.dtype == torch.uint8 and not self.scaling.normalised:
            inputs = self.scaling.rearrange(obs)
            features, state = self.torso.mixed(inputs, state, generator, self.scaling.scale)
            return self.head.mixed(features, generator), state
        return self.answer(self.scaling(obs), state, generator, bfloat16=True)

    def answer(
        self, inputs: Tensor, state: State = (), generator: torch.Generator | None = None, *, bfloat16: bool = False
    ) -> tuple[Prediction, State]:
        """Compute `forward`, or `mixed`, of inputs that are scaled already."""
        if self.is_recurrent and not state:
            state = self.initial_state(len(inputs))
        if not bfloat16:
            features, state = self.torso(inputs, state, generator)
            return self.head.predict(features, generator), state
        if type(self.torso) in (MLP, ConvNet):  # their own mixed precision is quicker than autocast
            features, state = self.torso.mixed(inputs, state, generator)  # type: ignore[operator]
        else:
            with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
                features, state = self.torso(inputs, state, generator)
            features = features.to(self.scaling.scale.dtype)
        return self.head.mixed(features, generator), state

    def set_input_statistics(self, mean: Sequence[float] | Array, std: Sequence[float] | Array) -> None:
        """Set the mean and std that inputs are normalised by, such as running statistics.

        mean, std: one value a feature (vectors) or channel (images), std above 0. They go into the scaling's buffers in
        place, and into a spec that replaces ``spec``, so that a saved model has them.

        Raises:
            SpecError: an input that is not normalised, or values that cannot be its mean and std.
        """
        if self.spec.input.mean is None:
            raise SpecError(
                "a network must normalise its inputs for its mean and std to be set, got one without; build it with an "
                "InputSpec with mean and std"
            )
        means, stds = each("mean", mean, number), each("std", std, positive)
        self.spec = replace(self.spec, input=replace(self.spec.input, mean=means, std=stds))
        self.scaling.set_statistics(means, stds)

    def initial_state(self, batch_size: int) -> State:
        """Return the state at an episode's start, [batch_size, ...] each: an empty tuple unless the torso defines one.

        Raises:
            SpecError: a torso's ``initial_state`` that returns anything but tensors of so many rows.
        """
        initial = getattr(self.torso, "initial_state", None)
        state = () if initial is None else initial(batch_size)
        if not isinstance(state, (tuple, list)):
            raise SpecError(f"{self._torso_method()} must return a tuple of tensors, got {type(state).__name__}")
        for part in state:
            if not isinstance(part, Tensor) or part.shape[:1] != (batch_size,):
                got = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise SpecError(f"{self._torso_method()} must return tensors [batch_size, ...], got {got}")
        return tuple(part.to(self.scaling.scale.device) for part in state)

    def _torso_method(self) -> str:
        return f"initial_state(batch_size) of the torso {type(self.torso).__name__}"

    def step(self, obs: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Compute the readout of raw ``obs``, [B, *shape], and the next state. The readout is [B, K] float32,
        or float64 from a regression head whose targets float32 would blur.

        It holds a classifier's scores, a policy's action values or a regressor's targets.
        """
        prediction, state = self(obs, state)
        readout = self.head.readout(prediction)
        return readout if self.reads_out_float64 else readout.float(), state

    def readout(self, obs: Tensor) -> Tensor:
        """Compute the readout of raw ``obs``, [B, *shape], as `step` does from an episode's start; [B, K] float32."""
        return self.step(obs)[0]


def count_parameters(network: nn.Module) -> int:
    """Count the parameters of a network, those that are learnt."""
    return sum(parameter.numel() for parameter in network.parameters())


def build_network(spec: NetworkSpec, generator: torch.Generator | None = None, init: Init = "default") -> Network:
    """Build a network with initial weights, on the CPU.

    The weights come from ``generator`` (PyTorch's default initialisation under a seed drawn from it); the process'
    global random state is not changed. Without a generator they come from the global state. ``init`` replaces
    them, see `initialise`.

    Raises:
        SpecError: a torso that does not take such inputs, or a registered one that lacks a torso's interface.
        ConfigError: an unknown ``init``.
    """
    if generator is None:
        network = Network(spec)
    else:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        with _global_generator_lock, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed would reseed CUDA's as well
            network = Network(spec)
    initialise(network, init, generator)
    return network
