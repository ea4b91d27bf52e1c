"""Views of a network: its first weights, its activations for one input, the inputs that excite its units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from torso.arrays import Array
from torso.insight.inspect.settings import InspectionPicture, InspectionSettings
from torso.insight.inspect.subjects import Subject
from torso.insight.pictures import layer_pictures, surfaces
from torso.insight.units.layers import OUTPUT, activations, first_layer_weights, layers, responses
from torso.insight.units.unit_portraits import UnitExcitation, find_unit_excitation, most_varying_units, parse_units


def view_weights(subject: Subject, out: Path) -> InspectionPicture:
    """Draw the first layer's weights; InputError where they are neither a convolution's nor a dense layer's."""
    found = first_layer_weights(subject.network)
    weights = found.weights.float().cpu().numpy()
    names = None
    if found.layer == OUTPUT:
        names = subject.names if len(subject.names) == len(weights) else [_binary_output_name(subject)]
    title = f"{subject.name}: weights of {found.layer}"
    path = out / "weights.png"
    if found.are_images:
        layer_pictures.draw_weight_images(path, title, weights, names)
    else:
        layer_pictures.draw_weight_table(path, title, weights, subject.feature_names, names)
    return InspectionPicture(name="weights", path=path, figures={"layer": found.layer, "shape": list(weights.shape)})


def view_activations(
    subject: Subject, out: Path, example: Array, input_name: str, truth: str | None = None
) -> InspectionPicture:
    """Draw every layer's activations for one input. example: [1, *shape] as the model takes it."""
    predictor = subject.predictor
    found = activations(subject.network, torch.tensor(example))
    values = {name: layer[0].float().numpy() for name, layer in found.items() if name != OUTPUT}
    readout = predictor.run(example)
    outputs, prediction = readout[0], ""
    if predictor.kind == "classifier":
        outputs = predictor.probabilities(readout)[0]
        best = int(outputs.argmax())
        confidence = f" ({outputs[best]:.1%})" if predictor.probabilistic else ""
        prediction = f", labelled {subject.names[best]}{confidence}"
    elif predictor.kind == "policy":
        prediction = f", action {subject.names[int(outputs.argmax())]}"
    elif predictor.kind == "regressor" and len(outputs) == 1:
        prediction = f", estimated {outputs[0]:.3g}"
    path = out / "activations.png"
    titles = {"classifier": "probabilities", "policy": "action values", "regressor": "targets"}
    layer_pictures.draw_activations(
        path,
        f"{subject.name}: {input_name}{'' if truth is None else f', truly {truth}'}{prediction}",
        _displayed_input(subject, example),
        values,
        dict(zip(subject.names, outputs.tolist(), strict=True)),
        output_title="output"
        if predictor.kind == "classifier" and not predictor.probabilistic
        else titles[predictor.kind],
    )
    return InspectionPicture(
        name="activations",
        path=path,
        figures={"input": input_name, "layers": [str(x) for x in layers(subject.network)]},
    )


def _displayed_input(subject: Subject, example: Array) -> layer_pictures.DisplayedInput:
    if subject.is_image:
        return layer_pictures.DisplayedInput(picture=subject.pictures(example)[0])
    row, spec = example.reshape(-1).astype(np.float64), subject.predictor.input
    if spec.mean is None or spec.std is None:
        return layer_pictures.DisplayedInput(row=row, feature_names=subject.feature_names)
    deviations = (row * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    return layer_pictures.DisplayedInput(
        row=deviations, feature_names=subject.feature_names, title="input, in deviations"
    )


def view_units(subject: Subject, settings: InspectionSettings, out: Path) -> Iterator[InspectionPicture]:
    """Draw the test inputs that excite units most, and each unit's optimal stimulus; one picture per layer."""
    network, inputs = subject.network, subject.examples
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = parse_units(network, settings.units) or most_varying_units(network, inputs, settings.num_units)
    for each in chosen:
        found = find_unit_excitation(
            network, each, inputs, subject.bounds, generator, k=settings.num_top, same_distance=subject.is_image
        )
        path = out / f"units_{each.layer}.png"
        _draw_units(subject, found, path)
        figures = [
            {
                "unit": f"{each.layer}:{unit}",
                "top_rows": top.rows.tolist(),
                "top_drives": top.drives.tolist(),
                "stimulus_drive": float(drive),
            }
            for unit, top, drive in zip(found.units, found.tops, found.stimuli.drives, strict=True)
        ]
        yield InspectionPicture(name=path.stem, path=path, figures={"units": figures})


def _draw_units(subject: Subject, found: UnitExcitation, path: Path) -> None:
    names = [_unit_name(subject, found.layer, unit) for unit in found.units]
    title = f"{subject.name}: what excites {found.layer}"
    tops = [subject.examples[top.rows] for top in found.tops]  # [k, *shape] each
    stimuli = found.stimuli.inputs
    if not subject.is_image and subject.predictor.input.size == 2:
        plane = surfaces.plane_around(subject.examples.numpy().reshape(-1, 2))
        points = torch.from_numpy(plane.points).reshape(-1, *subject.predictor.input.shape)
        drives = responses(subject.network, points, found.layer)[:, list(found.units)].numpy()
        surfaces.draw_unit_surfaces(
            path, title, plane, drives, names, [top.numpy() for top in tops], stimuli.numpy(), subject.feature_names
        )
        return
    draw = subject.pictures if subject.is_image else (lambda rows: np.asarray(rows).reshape(len(rows), -1))
    portraits = [
        layer_pictures.UnitPortrait(
            name=name,
            stimulus=draw(stimulus[np.newaxis])[0],
            stimulus_drive=float(drive),
            inputs=draw(rows),
            drives=top.drives.numpy(),
        )
        for name, stimulus, drive, rows, top in zip(names, stimuli, found.stimuli.drives, tops, found.tops, strict=True)
    ]
    if subject.is_image:
        layer_pictures.draw_unit_images(path, title, portraits)
    else:
        table = subject.examples.float().numpy().reshape(len(subject.examples), -1)
        deviation = np.where(table.std(axis=0) > 0, table.std(axis=0), 1.0)
        layer_pictures.draw_unit_tables(path, title, portraits, subject.feature_names, table.mean(axis=0), deviation)


def _unit_name(subject: Subject, layer: str, unit: int) -> str:
    if layer != OUTPUT:
        return f"unit {unit}"
    return subject.names[unit] if _num_outputs(subject) == len(subject.names) else _binary_output_name(subject)


def _num_outputs(subject: Subject) -> int:
    return layers(subject.network)[-1].num_units


def _binary_output_name(subject: Subject) -> str:
    """Name the single output of a binary classifier."""
    return f"{subject.names[1]} against {subject.names[0]}"
