"""The one network type: input scaling, a torso, a head."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from torso.errors import SpecError
from torso.nets.heads import Head, Prediction
from torso.nets.initialisation import Init, initialise
from torso.nets.layers import InputScaling
from torso.nets.registry import HEADS, TORSOS, State
from torso.nets.spec import NetworkSpec
from torso.nets.torsos import MLP

_global_generator = threading.Lock()  # held by whoever has put another state in its place


class Network(nn.Module):
    """``network(obs, state, generator) -> (prediction, state)``.

    ``obs`` is ``[B, *spec.input.shape]`` in the input's own dtype, raw; ``state`` is an empty tuple for feed-forward
    networks; ``generator`` feeds dropout and whatever a head draws, and may be None in evaluation.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scaling = InputScaling(spec.input)
        self.torso = TORSOS.of(spec.torso).build(spec.torso, spec.input.tensor_shape)
        num_features = getattr(self.torso, "num_features", None)
        if not isinstance(num_features, int):
            raise SpecError(f"the torso {type(self.torso).__name__} must have an int attribute num_features")
        head = HEADS.of(spec.head).build(spec.head, num_features)
        if not isinstance(head, Head):
            raise SpecError(f"the head {type(head).__name__} must be a ValueHead, a LabelHead or a TargetHead")
        self.head = head

    def forward(
        self, obs: Tensor, state: State = (), generator: torch.Generator | None = None
    ) -> tuple[Prediction, State]:
        """``obs``: [B, *shape] raw. Returns the head's prediction and the next state."""
        return self.answer(self.scaling(obs), state, generator)

    def mixed(
        self, obs: Tensor, state: State = (), generator: torch.Generator | None = None
    ) -> tuple[Prediction, State]:
        """`forward`, with the torso's large products in bfloat16 (autocast) and the head in the weights' own precision.

        A torso's features survive the rounding; an expected return of 100, rounded to bfloat16's 8 bits, may be off by
        a quarter.
        """
        return self.answer(self.scaling(obs), state, generator, bfloat16=True)

    def answer(
        self, inputs: Tensor, state: State = (), generator: torch.Generator | None = None, *, bfloat16: bool = False
    ) -> tuple[Prediction, State]:
        """`forward`, or `mixed`, of inputs that `scaling` has been over already."""
        if not bfloat16:
            features, state = self.torso(inputs, state, generator)
        elif isinstance(self.torso, MLP):  # its own way is quicker than autocast
            features, state = self.torso.mixed(inputs, state, generator)
        else:
            with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
                features, state = self.torso(inputs, state, generator)
            features = features.to(self.scaling.scale.dtype)
        return self.head.predict(features, generator), state

    def initial_state(self, batch_size: int) -> State:
        """The state that an episode begins with: an empty tuple unless the torso says otherwise."""
        initial = getattr(self.torso, "initial_state", None)
        return () if initial is None else tuple(initial(batch_size))

    def readout(self, obs: Tensor) -> Tensor:
        """[B, *shape] raw to [B, K] float32: a classifier's scores, a policy's action values, a regressor's targets."""
        prediction, _ = self(obs)
        return self.head.readout(prediction).float()


def build_network(spec: NetworkSpec, generator: torch.Generator | None = None, init: Init = "default") -> Network:
    """A network with fresh weights, on the CPU.

    The weights come from ``generator`` (PyTorch's default initialisation under a seed drawn from it); the process'
    global random state is left as it was. Without a generator they come from the global state. ``init`` puts others in
    their place, see `initialise`.

    Raises:
        SpecError: a torso that does not take such inputs, or a registered one that is no torso.
        ConfigError: an unknown ``init``.
    """
    if generator is None:
        network = Network(spec)
    else:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        with _global_generator, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed would reseed CUDA's as well
            network = Network(spec)
    initialise(network, init, generator)
    return network
