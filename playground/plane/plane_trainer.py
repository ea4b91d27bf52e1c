"""Training of a network on points of the plane, step by step, and snapshots of what it computes there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.supervised.fitting import as_examples, minibatch_bounds
from torso.agents.supervised.learner import SupervisedLearner, classifier_spec
from torso.errors import ConfigError
from torso.insight.units.layers import OUTPUT, activations, evaluation_mode
from torso.nets import InputSpec, Network
from torso.nets.modules.heads import LabelHead
from torso.nets.modules.layers import weights_of
from torso.playground.plane.plane_settings import PlaneSettings
from torso.playground.plane.points import EXTENT, PlanePoints

SURFACE_SIDE = 60  # cells of the decision surface's side
MAP_SIDE = 20  # cells of a unit's picture


@dataclass(frozen=True, eq=False)
class PlaneSnapshot:
    """State of a training, and its network over the plane. Pictures have their first row at the top of the plane.

    ``surface``: uint8 [classes, 60, 60], the probability of each class, 255 for 1. ``maps``: uint8 [units, 20, 20], the
    activations of all hidden units, 0 to 255 from -s to s, where s is ``scales`` [units], the largest size of the
    unit's own. ``looked``: uint8 [60, 60], the same of the unit that is looked at, by the scale of its own picture.
    ``weights``: float32, a layer's [units, inputs + 1] after the other, biases last; None in ``loss`` and ``accuracy``:
    there are no points, or the loss has diverged.
    """

    step: int
    loss: float | None
    accuracy: float | None
    surface: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    scales: NDArray[np.float32]
    looked: NDArray[np.uint8] | None
    looked_scale: float
    weights: NDArray[np.float32]

    def packed(self) -> bytes:
        """Pack the arrays as a message's body, in the order of their fields."""
        looked = b"" if self.looked is None else self.looked.tobytes()
        return b"".join(
            [
                self.surface.tobytes(),
                self.maps.tobytes(),
                looked,
                self.scales.astype("<f4").tobytes(),
                self.weights.astype("<f4").tobytes(),
            ]
        )


class PlaneTrainer:
    """Network that learns the points of a plane; of one thread at a time."""

    def __init__(self, settings: PlaneSettings, points: PlanePoints) -> None:
        torch.set_num_threads(1)  # more are slower for so small a network
        self.settings = settings
        config = settings.classifier_config()
        spec = classifier_spec(config, InputSpec(shape=(2,)), settings.num_classes)
        self.learner = SupervisedLearner.build(
            config,
            config.recipe(),
            spec,
            device=torch.device("cpu"),
            precision="float32",
            seed=settings.seed,
            total_updates=1,  # which a constant schedule does not ask for
        )
        self.has_diverged = False
        self._order_generator = torch.Generator().manual_seed(settings.seed + 1)
        self.take_points(points)

    @property
    def step(self) -> int:
        """Gradient steps that were made."""
        return self.learner.num_updates

    @property
    def network(self) -> Network:
        """The network that learns."""
        return self.learner.network

    @property
    def can_step(self) -> bool:
        """Whether there are points, and the loss is finite."""
        return len(self._points) > 0 and not self.has_diverged

    def take_points(self, points: PlanePoints) -> None:
        """Go on with other points, and the weights as they are. ConfigError for a class beyond the network's."""
        if points.num_classes > self.settings.num_classes:
            known = self.settings.num_classes
            raise ConfigError(f"points must be of {known} classes, got {points.num_classes}; begin with more")
        self._points = points
        self._given = as_examples(points.inputs, points.labels)
        self._examples = self.learner.prepare(self._given)
        self._minibatches: list[Tensor] = []  # that are left of an epoch, the next one last

    def advance(self, num_steps: int, limit_s: float = math.inf) -> int:
        """Make steps, at most so many and for about so long; return their number. It ends where the loss diverges."""
        end = time.monotonic() + limit_s
        done = 0
        while done < num_steps and self.can_step and (done == 0 or time.monotonic() < end):
            if not self._minibatches:
                self._minibatches = self._epoch()
            loss = self.learner.update(self._examples.take(self._minibatches.pop()))
            done += 1
            self.has_diverged = not math.isfinite(loss.item())
        return done

    def _epoch(self) -> list[Tensor]:
        num_rows = len(self._points)
        order = torch.randperm(num_rows, generator=self._order_generator)
        bounds = minibatch_bounds(num_rows, self.settings.batch_size, self.network.spec)
        return [order[first:last] for first, last in pairwise(bounds)][::-1]

    @torch.no_grad()
    def snapshot(self, looked: tuple[int, int] | None = None) -> PlaneSnapshot:
        """Show what the network computes over the plane.

        ``looked``: a unit whose picture is to be large, its hidden layer and its place there; one that there is not
        has none.
        """
        loss: float | None = None
        accuracy = None
        if len(self._points):
            score = self.learner.score(self._given)
            loss, accuracy = score.loss, score.accuracy
            self.has_diverged = self.has_diverged or not math.isfinite(loss)
            if self.has_diverged:
                loss, accuracy = None, None
        maps, scales = _scaled_maps(_hidden_values(self.network, plane_grid(MAP_SIDE)), MAP_SIDE)
        large, large_scale = None, 0.0
        hidden = self.settings.hidden
        if looked is not None and looked[0] < len(hidden) and looked[1] < hidden[looked[0]]:
            layer = list(activations(self.network, plane_grid(SURFACE_SIDE)).values())[looked[0]]
            pictures, found = _scaled_maps(layer[:, looked[1]].unsqueeze(1), SURFACE_SIDE)
            large, large_scale = pictures[0], float(found[0])
        return PlaneSnapshot(
            step=self.step,
            loss=loss,
            accuracy=accuracy,
            surface=np.rint(self._probabilities() * 255).astype(np.uint8),
            maps=maps,
            scales=scales,
            looked=large,
            looked_scale=large_scale,
            weights=self._weights(),
        )

    def _probabilities(self) -> NDArray[np.float32]:
        """Probability of each class over the plane, [classes, side, side]; 0 where it is not a number."""
        head = self.network.head
        if not isinstance(head, LabelHead):
            raise ConfigError(f"head must be one that labels, got {type(head).__name__}")
        with evaluation_mode(self.network):
            prediction, _ = self.network(plane_grid(SURFACE_SIDE))
            probabilities = torch.nan_to_num(head.probabilities(prediction), nan=0.0)  # [cells, K]
        return probabilities.T.reshape(-1, SURFACE_SIDE, SURFACE_SIDE).numpy()

    def _weights(self) -> NDArray[np.float32]:
        """Weights and biases of the layers, [units, inputs + 1] each, one after the other."""
        biases = [each for each in self.network.parameters() if each.dim() == 1]
        layers = [
            torch.cat([weight, bias.unsqueeze(1)], dim=1).flatten()
            for weight, bias in zip(weights_of(self.network), biases, strict=True)
        ]
        return torch.nan_to_num(torch.cat(layers).detach()).numpy()


def plane_grid(side: int) -> Tensor:
    """Centres of the plane's side x side cells, rows from the top down: float32 [side^2, 2]."""
    centres = (torch.arange(side) + 0.5) * (2 * EXTENT / side) - EXTENT
    y, x = torch.meshgrid(-centres, centres, indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2)


def _hidden_values(network: Network, grid: Tensor) -> Tensor:
    """Activations of all hidden units for the grid's points, layer by layer, [cells, units]."""
    found = activations(network, grid)
    hidden = [values for name, values in found.items() if name != OUTPUT]
    return torch.cat(hidden, dim=1) if hidden else grid.new_zeros((len(grid), 0))


def _scaled_maps(values: Tensor, side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures of units' values [cells, units], each from minus to plus its largest size; and those sizes, [units]."""
    values = torch.nan_to_num(values)
    scales = values.abs().amax(dim=0)  # [units]
    shares = values / torch.where(scales > 0, scales, torch.ones_like(scales))
    pixels = torch.round(127.5 + 127.5 * shares).clamp(0, 255).to(torch.uint8)
    return pixels.T.reshape(-1, side, side).numpy(), scales.numpy()
