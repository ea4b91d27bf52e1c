"""``torso inspect``: plot what a model has learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torso.cli.arguments.options import POSITIONAL
from torso.cli.models import error_text, read_npy
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.insight.inspect.inspecting import Inspection


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Plot what a model has learned, as PNG files: all plots that apply to the model and its test data.

    The first layer's weights; every layer's activations for one input; the test inputs that activate units most, and
    the optimal stimulus; accuracy under fast gradient sign attacks; the decision regions of two features; the confusion
    matrix with the most confident errors; the reliability diagram of the probabilities.
    """

    model: Path = field(metadata=POSITIONAL)
    """A model directory, or a run directory, whose best model is used."""
    dataset: str | None = None
    """The data set whose test data to use; None: the one that the model was fitted to.

    A folder of images is read in the model's size and colours; its part ``test`` is used or, where it has none, the
    images that the rule of `torso fit` sets aside."""
    data_dir: Path | None = None
    """A folder that holds the data set's files; None: $TORSO_DATA/DATASET or the user's cache."""
    out: Path | None = None
    """Directory of the plots; None: MODEL/inspection."""
    input: str | None = None
    """The input whose activations are plotted: a row of the test data, a PNG or JPEG file, or a .npy file of one input;
    None: row 0."""
    unit: tuple[str, ...] = ()
    """Units to plot, each LAYER:INDEX, such as conv1:3; None: the most selective units of each layer."""
    epsilons: tuple[float, ...] = ()
    """Sizes of adversarial attacks, as fractions of the input's range; None: from 0.01 to 0.2."""
    json: bool = False
    """Print one JSON object, with the figures that the plots show."""


def run(options: InspectOptions) -> int:
    """Plot the model, and print the paths of the plots."""
    from torso.insight.inspect.inspecting import inspect_model
    from torso.insight.inspect.settings import EPSILONS, InspectionSettings

    settings = InspectionSettings(units=options.unit, epsilons=options.epsilons or EPSILONS)
    example = None if options.input is None else _read_example(options.input)
    found = inspect_model(options.model, out=options.out, data=_test_data(options), example=example, settings=settings)
    _print_paths(options, found)
    return 0


def _test_data(options: InspectOptions) -> Any:
    from torso.insight.inspect.held_out import load_test_data
    from torso.nets import find_model, read_card

    card = read_card(find_model(options.model))
    if card.kind == "policy":
        if options.dataset is not None or options.data_dir is not None:
            name = "--dataset" if options.dataset is not None else "--data-dir"
            raise ConfigError(f"{name} must be omitted: {options.model} is a policy, to which it does not apply")
        return None
    return load_test_data(card, options.dataset, options.data_dir)


def _read_example(text: str) -> Any:
    """Read an example: a row's index, an array, or an image file's bytes."""
    if text.lstrip("-").isdecimal():
        return int(text)
    path = Path(text)
    if path.suffix == ".npy":
        return read_npy(path)
    try:
        return path.read_bytes()
    except OSError as error:
        advice = "give a row of the test data, a PNG, JPEG or .npy file"
        raise ConfigError(f"--input {text} cannot be read: {error_text(error)}; {advice}") from error


def _print_paths(options: InspectOptions, found: Inspection) -> None:
    width = max(len(each.name) for each in found.drawn)
    lines = [f"{each.name:<{width}}  {each.path}" for each in found.drawn]
    print_result({"model": str(options.model), **found.to_json()}, "\n".join(lines), as_json=options.json)
