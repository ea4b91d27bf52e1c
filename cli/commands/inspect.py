"""``torso inspect``: what a model has learned, as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from torso.cli.models import error_text, read_npy
from torso.cli.output import result
from torso.cli.parsing import Flag
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.insight.inspect.inspecting import Inspection


@tyro.conf.configure(tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Draw what a model has learned: PNG pictures of all that the model and its test data allow to be seen.

    The first layer's weights; every layer's values for one input; the test inputs that excite units most, and the
    stimulus that would excite them more than any of these; accuracy under fast gradient sign attacks; of two features,
    what is decided where; the confusion matrix with the surest mistakes; whether probabilities come true.
    """

    model: tyro.conf.Positional[Path]
    """A model directory, or a run's, whose best model is meant."""
    dataset: str | None = None
    """Whose test data to look at the model with; None: those of the data set that it was fitted to."""
    data_dir: Path | None = None
    """A folder that holds the data set's files; None: $TORSO_DATA/DATASET or the user's cache."""
    out: Path | None = None
    """Where the pictures go; None: MODEL/inspection."""
    input: str | None = None
    """The input whose way through the layers is shown: a row of the test data, a PNG or JPEG file, or a .npy file of
    one input; None: row 0."""
    unit: tuple[str, ...] = ()
    """Units to portray, each LAYER:INDEX, such as conv1:3; none: of each layer those that tell inputs apart most."""
    epsilons: tuple[float, ...] = ()
    """Sizes of attacks, as shares of the input's range; none: from 0.01 to 0.2."""
    json: Flag = False
    """Print one JSON object, with the figures that the pictures show."""


def run(options: InspectOptions) -> int:
    """Inspect, and print the pictures' paths."""
    from torso.insight.inspect.inspecting import inspect_model
    from torso.insight.inspect.settings import EPSILONS, InspectionSettings

    settings = InspectionSettings(units=options.unit, epsilons=options.epsilons or EPSILONS)
    example = None if options.input is None else _example(options.input)
    found = inspect_model(options.model, out=options.out, data=_test_data(options), example=example, settings=settings)
    _tell(options, found)
    return 0


def _test_data(options: InspectOptions) -> Any:
    from torso.envs import load_dataset
    from torso.insight.inspect.subjects import source_of
    from torso.nets import find_model, read_card

    card = read_card(find_model(options.model))
    if card.kind == "policy":
        if options.dataset is not None or options.data_dir is not None:
            name = "--dataset" if options.dataset is not None else "--data-dir"
            raise ConfigError(f"{name}: {options.model} is a policy, which has no use for it; leave it out")
        return None
    source = source_of(card, options.dataset)
    return None if source is None else load_dataset(data_dir=options.data_dir, **source).test


def _example(text: str) -> Any:
    """A row, an array, or an image file's bytes."""
    if text.lstrip("-").isdecimal():
        return int(text)
    path = Path(text)
    if path.suffix == ".npy":
        return read_npy(path)
    try:
        return path.read_bytes()
    except OSError as error:
        expected = "a row of the test data, a PNG, JPEG or .npy file"
        raise ConfigError(f"--input {text} cannot be read: {error_text(error)}; expected {expected}") from error


def _tell(options: InspectOptions, found: Inspection) -> None:
    width = max(len(each.name) for each in found.drawn)
    lines = [f"{each.name:<{width}}  {each.path}" for each in found.drawn]
    result({"model": str(options.model), **found.to_json()}, "\n".join(lines), as_json=options.json)
