"""Specifications: JSON round trip without loss, and validation errors that name the field."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import ConfigError, SpecError
from torso.nets import (
    NETS,
    CategoricalHeadSpec,
    ConvLayerSpec,
    ConvNetSpec,
    ImageSpec,
    ImplicitQuantileHeadSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    OneVsRestHeadSpec,
    QuantileHeadSpec,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
    net_spec,
)
from torso.nets.specs.inputs import INPUT_DTYPES
from torso.nets.specs.registry import HEADS
from torso.nets.specs.torsos import ACTIVATIONS

OF_OTHERS = "(counting-lstm-cell, )?"  # a torso that tests of the server register in the same process
VECTOR = InputSpec(shape=(4,))
SPEC = NetworkSpec(input=VECTOR, torso=MLPSpec(), head=ScalarHeadSpec(num_actions=2))

# -- any specification goes to JSON and back ---------------------------------------------------------------------------

sizes = st.integers(1, 9)
floats32 = st.floats(-1e30, 1e30, allow_nan=False).filter(lambda x: abs(x) > 1e-30)
positive = floats32.map(abs)


@st.composite
def images(draw: st.DrawFn) -> InputSpec:
    image = ImageSpec(
        channels=draw(st.sampled_from([1, 3])),
        height=draw(sizes),
        width=draw(sizes),
        polarity=draw(st.sampled_from(["light-on-dark", "dark-on-light"])),
        centring=draw(st.sampled_from(["none", "box", "mass"])),
        max_value=draw(st.floats(0.001, 1.0)),
    )
    layout = draw(st.sampled_from(["hw", "chw", "hwc", None] if image.channels == 1 else ["chw", "hwc", None]))
    size = (image.height, image.width)
    shape = {"hw": size, "chw": (image.channels, *size), "hwc": (*size, image.channels)}.get(
        layout, (image.channels * image.height * image.width,)
    )
    channels = image.channels if layout is not None else shape[0]
    return InputSpec(
        shape=shape,
        dtype=draw(st.sampled_from(INPUT_DTYPES)),
        layout=layout,
        scale=draw(floats32),
        **draw(normalisations(channels)),
        image=draw(st.sampled_from([image, None])),
    )


@st.composite
def normalisations(draw: st.DrawFn, channels: int) -> dict[str, Any]:
    if draw(st.booleans()):
        return {}
    mean = draw(st.lists(floats32, min_size=channels, max_size=channels))
    std = draw(st.lists(positive, min_size=channels, max_size=channels))
    return {"mean": tuple(mean), "std": tuple(std)}


@st.composite
def vectors(draw: st.DrawFn) -> InputSpec:
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    dtype = draw(st.sampled_from(INPUT_DTYPES))
    return InputSpec(shape=shape, dtype=dtype, scale=draw(floats32), **draw(normalisations(math.prod(shape))))


dense_fields = {
    "hidden": st.lists(st.integers(2, 9), max_size=3).map(tuple),
    "activation": st.sampled_from(ACTIVATIONS),
    "dropout": st.floats(0, 1, exclude_max=True),
}
norms = st.sampled_from([{}, {"layer_norm": True}, {"batch_norm": True}])
kinds = st.sampled_from(["image", "channels", "elements"])
convs = st.builds(
    ConvLayerSpec,
    channels=sizes,
    kernel=st.integers(2, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    pool=st.sampled_from([None, "max", "avg"]),
    pool_size=st.integers(1, 3),
)


@st.composite
def torsos(draw: st.DrawFn) -> MLPSpec | ConvNetSpec:
    fields = {**draw(st.fixed_dictionaries(dense_fields)), **draw(norms)}
    if draw(st.booleans()):
        return MLPSpec(**fields)
    layers = tuple(draw(st.lists(convs, min_size=1, max_size=3)))
    kind = draw(kinds) if "layer_norm" in fields else "image"
    if kind == "channels":  # which a single channel does not have
        layers = tuple(replace(conv, channels=conv.channels + 1) for conv in layers)
    return ConvNetSpec(convs=layers, layer_norm_kind=kind, **fields)


@st.composite
def regression_heads(draw: st.DrawFn) -> RegressionHeadSpec:
    num_targets = draw(sizes)
    return RegressionHeadSpec(num_targets=num_targets, **draw(normalisations(num_targets)))


smoothing = st.floats(0, 1, exclude_max=True)
heads = st.one_of(
    st.builds(LogitsHeadSpec, num_classes=st.integers(2, 9), label_smoothing=smoothing),
    st.builds(OneVsRestHeadSpec, num_classes=st.integers(2, 9), label_smoothing=smoothing),
    st.builds(SigmoidHeadSpec, loss=st.just("cross-entropy"), label_smoothing=smoothing),
    st.just(SigmoidHeadSpec(loss="logistic")),
    st.just(StepHeadSpec()),
    regression_heads(),
    st.builds(ScalarHeadSpec, num_actions=sizes, huber_delta=st.none() | positive),
    st.builds(ScalarHeadSpec, num_actions=sizes, dueling=st.just(True), hidden=dense_fields["hidden"]),
)
specs = st.builds(NetworkSpec, input=images() | vectors(), torso=torsos(), head=heads)


@given(specs)
def test_a_specification_goes_to_json_and_back(spec: NetworkSpec) -> None:
    text = json.dumps(spec.to_json(), allow_nan=False)
    again = NetworkSpec.from_json(json.loads(text))
    assert again == spec
    assert json.dumps(again.to_json()) == text


@given(specs)
def test_a_specification_builds_a_network_that_runs_or_is_refused_by_name(spec: NetworkSpec) -> None:
    reason = why_not(spec)
    if reason is not None:
        with pytest.raises(SpecError, match=reason):
            build_network(spec, torch.Generator().manual_seed(0))
        return
    network = build_network(spec, torch.Generator().manual_seed(0)).eval()
    for rows in (1, 2):
        obs = torch.zeros(rows, *spec.input.shape, dtype=getattr(torch, spec.input.dtype))
        assert network.readout(obs).shape == (rows, spec.num_outputs)


def why_not(spec: NetworkSpec) -> str | None:
    if not isinstance(spec.torso, ConvNetSpec):
        return None
    if spec.input.layout is None:
        return "takes images"
    height, width = spec.input.tensor_shape[1:]
    if min(height, width) < spec.torso.min_input_size:
        return "too small"
    for conv in spec.torso.convs:
        if spec.torso.layer_norm and conv.channels * conv.convolved_size(height) * conv.convolved_size(width) == 1:
            return "must give more than one value with layer_norm, got one channel of one pixel"
        height, width = conv.output_size(height), conv.output_size(width)
    return None


@given(convs, st.integers(1, 40))
def test_a_convolutions_least_input_is_the_least_that_leaves_enough(conv: ConvLayerSpec, size: int) -> None:
    least = conv.min_input_size(size)
    assert conv.output_size(least) >= size
    assert least == 1 or conv.output_size(least - 1) < size
    module = torch.nn.Conv2d(1, 1, conv.kernel, conv.stride, conv.padding)(torch.zeros(1, 1, least + 20, least + 20))
    pooled = module if conv.pool is None else torch.nn.MaxPool2d(conv.pool_size)(module)
    assert pooled.shape[2] == conv.output_size(least + 20)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.data())
def test_a_damaged_specification_is_a_spec_error_or_another_specification(data: st.DataObject) -> None:
    fields = data.draw(specs).to_json()
    path = data.draw(st.sampled_from(["input", "torso", "head"]))
    damaged = fields if data.draw(st.booleans()) else fields[path]
    key = data.draw(st.sampled_from(sorted(damaged)) | st.text(max_size=5))
    damaged[key] = data.draw(json_values)
    try:
        spec = NetworkSpec.from_json(fields)
    except SpecError:
        return
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec


# -- refusals ----------------------------------------------------------------------------------------------------------

HUGE = 10**400


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": 4}, "shape must be a tuple"),
        ({"shape": (0,)}, "at least 1, got 0"),
        ({"shape": (True,)}, "whole number"),
        ({"shape": (2.0,)}, "whole number"),
        ({"shape": (HUGE,)}, "whole number"),
        ({"dtype": "float"}, "dtype must be one of"),
        ({"dtype": ">f4"}, "dtype must be one of"),
        ({"dtype": object}, "dtype must be one of"),
        ({"dtype": 3}, "dtype must be one of"),
        ({"layout": "wh"}, "layout must be one of hw, chw, hwc, tchw, thwc; got 'wh'"),
        ({"layout": "hw"}, r"shape must have 2 axes for layout 'hw', got \(4,\)"),
        ({"scale": 0}, "scale must be a number other than 0"),
        ({"scale": 1e-300}, "scale must be a number other than 0"),
        ({"scale": math.nan}, "scale must be a finite number"),
        ({"scale": math.inf}, "scale must be a finite number"),
        ({"scale": 1e39}, "scale must be a finite number"),  # infinite as a float32
        ({"scale": HUGE}, "scale must be a finite number"),
        ({"scale": True}, "scale must be a finite number"),
        ({"scale": "1"}, "scale must be a finite number"),
        ({"mean": (0.0,) * 4}, "mean and std must be given together, got mean alone"),
        ({"std": (1.0,) * 4}, "mean and std must be given together, got std alone"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 4}, "mean must hold 4 values, one a feature or channel, got 3"),
        ({"mean": (0.0,) * 4, "std": (1.0,) * 5}, "std must hold 4 values"),
        ({"mean": (math.nan,) * 4, "std": (1.0,) * 4}, "each of mean must be a finite number, got nan"),
        ({"mean": (HUGE,) * 4, "std": (1.0,) * 4}, "each of mean must be a finite number"),
        ({"mean": "abcd", "std": (1.0,) * 4}, "mean must be a tuple"),
        ({"mean": (0.0,) * 4, "std": (math.nan,) * 4}, "each of std must be a finite number"),
        ({"mean": (0.0,) * 4, "std": (1.0, 0.0, 1.0, 1.0)}, "each of std must be positive, got 0"),
        ({"mean": (0.0,) * 4, "std": (1.0, 1e-50, 1.0, 1.0)}, "each of std must be positive"),
        ({"image": 3}, "image must be an ImageSpec, got 3"),
        ({"image": {"channels": 1}}, "image cannot be built from"),
        (
            {"image": ImageSpec(channels=1, height=2, width=3)},
            r"image must fill an input of shape \(4,\) .* got .* \(1, 2, 3\)",
        ),
    ],
)
def test_inputs_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        InputSpec(**{"shape": (4,), **fields})


@pytest.mark.parametrize(
    ("shape", "layout", "dtype", "max_value", "message"),
    [
        ((6, 4), "hw", "uint8", 255, r"must fill an input of shape \(6, 4\) .*\(1, 4, 6\)"),  # turned
        ((4, 6, 1), "chw", "uint8", 255, "image must fill an input of .* layout chw, got"),
        ((4, 6), "hw", "uint8", 256, "max_value must be one that uint8 can hold, got 256"),
        ((4, 6), "hw", "int8", 128, "can hold"),
        ((4, 6), "hw", "bool", 2, "can hold"),
        ((4, 6), "hw", "float16", 70000, "can hold"),
    ],
)
def test_images_that_do_not_fill_their_input(
    shape: tuple[int, ...], layout: Any, dtype: str, max_value: float, message: str
) -> None:
    image = ImageSpec(channels=1, height=4, width=6, max_value=max_value)
    with pytest.raises(SpecError, match=message):
        InputSpec(shape=shape, layout=layout, dtype=dtype, image=image)


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (ImageSpec, {"channels": 2}, "channels must be 1"),
        (ImageSpec, {"channels": True}, "channels must be a whole number"),
        (ImageSpec, {"channels": 1.0}, "channels must be a whole number"),
        (ImageSpec, {"height": 0}, "height must be"),
        (ImageSpec, {"polarity": "dark"}, "polarity must be one of"),
        (ImageSpec, {"centring": "top"}, "centring must be one of none, box, mass"),
        (ImageSpec, {"max_value": 0}, "max_value must be positive"),
        (ImageSpec, {"max_value": HUGE}, "max_value must be a finite number"),
        (MLPSpec, {"hidden": 128}, "hidden must be a tuple"),
        (MLPSpec, {"hidden": (8, 0)}, "each of hidden must be a whole number of at least 1, got 0"),
        (MLPSpec, {"activation": "selu"}, "activation must be one of sigmoid, tanh, relu, .*identity; got 'selu'"),
        (MLPSpec, {"activation": ["relu"]}, "activation must be one of"),
        (MLPSpec, {"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        (MLPSpec, {"dropout": -0.1}, r"dropout must lie in \[0, 1\)"),
        (MLPSpec, {"dropout": math.nan}, "dropout must be a finite number"),
        (MLPSpec, {"layer_norm": "no"}, "layer_norm must be True or False"),
        (
            MLPSpec,
            {"hidden": (8, 1), "layer_norm": True},
            r"hidden must hold widths above 1 with layer_norm, got \(8, 1\)",
        ),
        (MLPSpec, {"batch_norm": 1}, "batch_norm must be True or False"),
        (
            MLPSpec,
            {"batch_norm": True, "layer_norm": True},
            "layer_norm and batch_norm must not both be True, .* the same place",
        ),
        (ConvNetSpec, {"batch_norm": True, "layer_norm": True}, "layer_norm and batch_norm .*choose one"),
        (ConvNetSpec, {"layer_norm": "channels"}, "layer_norm must be True or False, got 'channels'"),
        (
            ConvNetSpec,
            {"layer_norm": True, "layer_norm_kind": "pixel"},
            "layer_norm_kind must be one of image, channels, elements; got 'pixel'",
        ),
        (ConvNetSpec, {"layer_norm": True, "layer_norm_kind": True}, "layer_norm_kind must be one of .*; got True"),
        (ConvNetSpec, {"layer_norm": True, "layer_norm_kind": None}, "layer_norm_kind must be one of .*; got None"),
        (
            ConvNetSpec,
            {"layer_norm_kind": "channels"},
            "layer_norm_kind must be left out without layer_norm, got 'channels'; give layer_norm=True",
        ),
        (
            ConvNetSpec,
            {
                "convs": (ConvLayerSpec(channels=4, kernel=3), ConvLayerSpec(channels=1, kernel=3)),
                "layer_norm": True,
                "layer_norm_kind": "channels",
            },
            "each of convs must have more than one channel with layer_norm_kind='channels', got 1: of one value it",
        ),
        (ConvLayerSpec, {"channels": 0}, "channels must be"),
        (ConvLayerSpec, {"kernel": 0}, "kernel must be"),
        (ConvLayerSpec, {"stride": 0}, "stride must be"),
        (ConvLayerSpec, {"padding": -1}, "padding must be a whole number of at least 0"),
        (ConvLayerSpec, {"padding": 3}, r"padding must be below its kernel \(3\), got 3"),
        (ConvLayerSpec, {"pool": "sum"}, "pool must be one of max, avg"),
        (ConvLayerSpec, {"pool_size": 0}, "pool_size must be"),
        (ConvNetSpec, {"convs": ()}, "at least one convolution"),
        (ConvNetSpec, {"convs": 3}, "at least one convolution"),
        (ConvNetSpec, {"convs": (3,)}, "must be a ConvLayerSpec, got 3"),
        (ConvNetSpec, {"convs": ({"channels": 3},)}, "a convolution cannot be built from"),
        (ScalarHeadSpec, {"num_actions": 0}, "num_actions must be"),
        (ScalarHeadSpec, {"num_actions": "2"}, "num_actions must be"),
        (ScalarHeadSpec, {"huber_delta": 0}, "huber_delta .* must be positive"),
        (ScalarHeadSpec, {"huber_delta": math.inf}, "huber_delta .* must be a finite number"),
        (ScalarHeadSpec, {"huber_delta": math.nan}, "huber_delta .* must be a finite number"),
        (ScalarHeadSpec, {"huber_delta": "1"}, "huber_delta .* must be a finite number"),
        (ScalarHeadSpec, {"dueling": 1}, "dueling must be True or False, got 1"),
        (ScalarHeadSpec, {"dueling": True, "hidden": 64}, "hidden must be a tuple, got 64"),
        (ScalarHeadSpec, {"dueling": True, "hidden": (64, 0)}, "each of hidden must be a whole number of at least 1"),
        (
            ScalarHeadSpec,
            {"hidden": (64,)},
            r"hidden must be empty without dueling, got \(64,\).*; use dueling=True, or give .* the torso",
        ),
        (ScalarHeadSpec, {"noisy": "yes"}, "noisy must be True or False, got 'yes'"),
        (ScalarHeadSpec, {"noisy_std": 0.0}, "noisy_std must be positive, got 0.0"),
        (CategoricalHeadSpec, {"num_atoms": 1}, "num_atoms must be a whole number of at least 2, got 1"),
        (CategoricalHeadSpec, {"v_min": 10.0}, "v_min must be below v_max, got 10.0 and 10.0"),
        (CategoricalHeadSpec, {"v_max": math.nan}, "v_max must be a finite number, got nan"),
        (CategoricalHeadSpec, {"hidden": (64,)}, "hidden must be empty without dueling"),
        (QuantileHeadSpec, {"num_quantiles": 0}, "num_quantiles must be a whole number of at least 1, got 0"),
        (QuantileHeadSpec, {"huber_delta": 0.0}, "huber_delta .* must be positive, got 0.0"),
        (QuantileHeadSpec, {"hidden": (64,)}, "hidden must be empty without dueling"),
        (ImplicitQuantileHeadSpec, {"num_fractions": 0}, "num_fractions must be a whole number of at least 1, got 0"),
        (ImplicitQuantileHeadSpec, {"num_fixed_fractions": 1.5}, "num_fixed_fractions must be a whole number"),
        (ImplicitQuantileHeadSpec, {"num_cosines": 0}, "num_cosines must be a whole number of at least 1, got 0"),
        (ImplicitQuantileHeadSpec, {"num_actions": 0}, "num_actions must be a whole number of at least 1, got 0"),
        (LogitsHeadSpec, {"num_classes": 1}, "num_classes must be a whole number of at least 2"),
        (LogitsHeadSpec, {"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1"),
        (OneVsRestHeadSpec, {"num_classes": 1}, "num_classes must be a whole number of at least 2"),
        (OneVsRestHeadSpec, {"label_smoothing": -0.1}, r"label_smoothing must lie in \[0, 1\)"),
        (SigmoidHeadSpec, {"loss": "hinge"}, "loss must be one of cross-entropy, logistic; got 'hinge'"),
        (SigmoidHeadSpec, {"label_smoothing": "0.1"}, "label_smoothing must be a finite number"),
        (
            SigmoidHeadSpec,
            {"loss": "logistic", "label_smoothing": 0.1},
            "must be 0 with the logistic loss, got 0.1.*; use loss='cross-entropy'",
        ),
        (RegressionHeadSpec, {"num_targets": 0}, "num_targets must be a whole number of at least 1"),
        (RegressionHeadSpec, {"mean": (0.0, 0.0)}, "mean and std must be given together, got mean alone"),
        (RegressionHeadSpec, {"std": (1.0, 1.0)}, "mean and std must be given together, got std alone"),
        (RegressionHeadSpec, {"mean": (0.0,), "std": (1.0, 1.0)}, "mean must hold 2 values, one a target, got 1"),
        (RegressionHeadSpec, {"mean": (0.0, 0.0), "std": (1.0,)}, "std must hold 2 values"),
        (RegressionHeadSpec, {"mean": (0.0, 0.0), "std": (1.0, 0.0)}, "each of std must be positive"),
        (NetworkSpec, {"input": (4,)}, "input must be an InputSpec"),
        (
            NetworkSpec,
            {"torso": ScalarHeadSpec(num_actions=2)},
            rf"a torso spec must be of a registered class \(convnet, {OF_OTHERS}mlp(, obstinate)?\), got ScalarHead",
        ),
        (
            NetworkSpec,
            {"head": MLPSpec()},
            r"a head spec must be of a registered class \(.*logits, one-vs-rest.*\), got MLPSpec",
        ),
    ],
)
def test_specifications_that_cannot_be(make: Any, fields: dict[str, Any], message: str) -> None:
    whole: dict[Any, dict[str, Any]] = {
        ImageSpec: {"channels": 1, "height": 4, "width": 4},
        MLPSpec: {},
        ConvLayerSpec: {"channels": 4, "kernel": 3},
        ConvNetSpec: {"convs": (ConvLayerSpec(channels=4, kernel=3),)},
        **{each: {"num_actions": 2} for each in (ScalarHeadSpec, CategoricalHeadSpec, QuantileHeadSpec)},
        ImplicitQuantileHeadSpec: {"num_actions": 2, "hidden": (4,)},
        LogitsHeadSpec: {"num_classes": 2},
        OneVsRestHeadSpec: {"num_classes": 2},
        SigmoidHeadSpec: {},
        RegressionHeadSpec: {"num_targets": 2},
        NetworkSpec: {"input": VECTOR, "torso": MLPSpec(), "head": ScalarHeadSpec(num_actions=2)},
    }
    make(**whole[make])
    with pytest.raises(SpecError, match=message):
        make(**{**whole[make], **fields})


@pytest.mark.parametrize("data", [None, [], "mlp", {}, {"input": {}, "torso": {}, "head": {}}, {"input": 1}])
def test_json_that_is_no_network(data: object) -> None:
    with pytest.raises(SpecError):
        NetworkSpec.from_json(data)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("torso", {"kind": "mpl"}, rf"a torso's kind must be one of convnet, {OF_OTHERS}mlp.*; got 'mpl' .*register"),
        ("head", {"kind": "dueling"}, "a head's kind must be one of .*logits, one-vs-rest, .*scalar.*; got 'dueling'"),
        ("torso", {"hidden": [4]}, "torso must be an object with a 'kind'"),
        ("torso", {"kind": "mlp", "depth": 3}, r"torso 'mlp' has unknown fields \['depth'\]; known are"),
        ("head", {"kind": "scalar"}, "head 'scalar' cannot be built from"),
        ("input", {"shape": [4], "dtyp": "uint8"}, r"input has unknown fields \['dtyp'\]"),
    ],
)
def test_json_of_a_part_that_is_wrong(part: str, value: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        NetworkSpec.from_json({**SPEC.to_json(), part: value})


@pytest.mark.parametrize("depth", [100, 400, 900, 5000])
def test_json_nested_beyond_reason(depth: int) -> None:
    value: Any = []
    for _ in range(depth):
        value = [value]
    for damaged in ({"kind": "mlp", "hidden": value}, value, {"kind": value}):
        with pytest.raises(SpecError) as caught:
            NetworkSpec.from_json({**SPEC.to_json(), "torso": damaged})
        assert len(str(caught.value)) < 500


def test_an_errors_text_is_short_however_long_the_value() -> None:
    with pytest.raises(SpecError) as caught:
        NetworkSpec.from_json({"input": list(range(100_000))})
    assert len(str(caught.value)) < 300


# -- other libraries' numbers ------------------------------------------------------------------------------------------


def test_numpys_numbers_become_pythons() -> None:
    spec = NetworkSpec(
        input=InputSpec(
            shape=(np.int64(2),),  # type: ignore[arg-type]
            dtype=np.float32,  # type: ignore[arg-type]
            scale=np.float32(0.5),  # type: ignore[arg-type]
            mean=np.zeros(2),  # type: ignore[arg-type]
            std=np.ones(2, dtype=np.float32),  # type: ignore[arg-type]
        ),
        torso=MLPSpec(hidden=[np.int32(3)], layer_norm=np.True_),  # type: ignore[arg-type]
        head=ScalarHeadSpec(num_actions=np.int64(2)),  # type: ignore[arg-type]
    )
    plain = InputSpec(shape=(2,), scale=0.5, mean=(0.0, 0.0), std=(1.0, 1.0))
    torso = MLPSpec(hidden=(3,), layer_norm=True)
    assert spec == NetworkSpec(input=plain, torso=torso, head=ScalarHeadSpec(num_actions=2))
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_specifications_are_frozen_and_hashable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        VECTOR.scale = 2.0  # type: ignore[misc]
    assert len({SPEC, NetworkSpec.from_json(SPEC.to_json())}) == 1


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((), None, (1,)),
        ((3, 4), None, (12,)),
        ((3, 4), "hw", (1, 3, 4)),
        ((2, 3, 4), "chw", (2, 3, 4)),
        ((3, 4, 2), "hwc", (2, 3, 4)),
    ],
)
def test_what_the_torso_gets(shape: tuple[int, ...], layout: Any, expected: tuple[int, ...]) -> None:
    assert InputSpec(shape=shape, layout=layout).tensor_shape == expected


@pytest.mark.parametrize(
    ("head", "kind", "num_outputs", "probabilistic"),
    [
        (ScalarHeadSpec(num_actions=2), "policy", 2, False),
        (LogitsHeadSpec(num_classes=7), "classifier", 7, True),
        (OneVsRestHeadSpec(num_classes=7), "classifier", 7, True),
        (SigmoidHeadSpec(), "classifier", 2, True),
        (StepHeadSpec(), "classifier", 2, False),
        (RegressionHeadSpec(num_targets=3), "regressor", 3, False),
    ],
)
def test_what_a_network_is_for(head: Any, kind: str, num_outputs: int, probabilistic: bool) -> None:
    spec = dataclasses.replace(SPEC, head=head)
    assert (spec.kind, spec.num_outputs, spec.probabilistic) == (kind, num_outputs, probabilistic)


def test_a_specification_of_format_1_is_one_without_batch_norm_or_smoothing() -> None:
    data = NetworkSpec(input=VECTOR, torso=MLPSpec(), head=LogitsHeadSpec(num_classes=2)).to_json()
    del data["torso"]["batch_norm"], data["head"]["label_smoothing"]
    spec = NetworkSpec.from_json(data)
    assert (spec.torso.batch_norm, spec.head.label_smoothing) == (False, 0.0)


# -- presets -----------------------------------------------------------------------------------------------------------


def test_an_unknown_net_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown net 'resnet'; known are mlp, cnn, lenet, nature"):
        net_spec("resnet", VECTOR)


@pytest.mark.parametrize("name", [name for name in NETS if name != "linear"])
def test_settings_that_are_given_replace_a_presets_own(name: str) -> None:
    network_input = InputSpec(shape=(40, 40), layout="hw")
    spec = net_spec(name, network_input, hidden=(7, 5), activation="sigmoid", dropout=0.25, layer_norm=True)
    assert (spec.hidden, spec.activation, spec.dropout, spec.layer_norm) == ((7, 5), "sigmoid", 0.25, True)
    assert not spec.batch_norm
    convs = {"mlp": 0, "cnn": 4, "lenet": 2, "nature": 3, "nips": 2, "minatar": 1, "vgg": 5}[name]
    assert len(getattr(spec, "convs", ())) == convs
    assert net_spec(name, network_input, batch_norm=True).batch_norm
    assert not net_spec(name, network_input, batch_norm=False).batch_norm
    with pytest.raises(SpecError, match="hidden must be a tuple"):
        net_spec(name, network_input, hidden=128)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="choose one"):
        net_spec(name, network_input, layer_norm=True, batch_norm=True)


@pytest.mark.parametrize("name", NETS)
def test_what_normalises_batches_of_its_own_accord(name: str) -> None:
    assert net_spec(name, InputSpec(shape=(40, 40), layout="hw")).batch_norm == (name in ("cnn", "vgg"))
    if name in ("mlp", "cnn"):
        assert not net_spec(name, InputSpec(shape=(12, 12), layout="hw")).batch_norm


def test_the_linear_net_has_no_hidden_layer_to_set() -> None:
    assert net_spec("linear", VECTOR) == net_spec("linear", VECTOR, hidden=(), dropout=0.0) == MLPSpec(hidden=())
    for setting in ({"hidden": (3,)}, {"activation": "tanh"}, {"dropout": 0.1}, {"layer_norm": True}):
        (name,) = setting
        with pytest.raises(ConfigError, match=f"net='linear' has no hidden layer for {name}; leave out"):
            net_spec("linear", VECTOR, **setting)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="for layer_norm, batch_norm; leave out, or use net='mlp'"):
        net_spec("linear", VECTOR, layer_norm=True, batch_norm=True)


def test_vgg_is_three_pooled_blocks_for_images_that_are_large_enough() -> None:
    spec = net_spec("vgg", InputSpec(shape=(16, 28), layout="hw"))
    assert isinstance(spec, ConvNetSpec)
    assert [(conv.channels, conv.pool) for conv in spec.convs] == [
        *((32, "max"), (64, None), (64, "max"), (128, None), (128, "max"))
    ]
    assert (spec.hidden, spec.dropout) == ((), 0.4)
    with pytest.raises(SpecError, match="at least 16x16 pixels, these have 28x15; use net='cnn'"):
        net_spec("vgg", InputSpec(shape=(28, 15), layout="hw"))


def test_the_cnn_keeps_small_scans_whole() -> None:
    small = net_spec("cnn", InputSpec(shape=(8, 8), layout="hw"))
    large = net_spec("cnn", InputSpec(shape=(28, 28), layout="hw"))
    assert isinstance(small, ConvNetSpec)
    assert isinstance(large, ConvNetSpec)
    assert [conv.pool for conv in small.convs] == [None, "max"]
    assert [conv.pool for conv in large.convs] == ["max", None, "max", "max"]


@pytest.mark.parametrize("name", [name for name in NETS if name != "linear"])
def test_a_kind_of_layer_norm_goes_to_convolutions(name: str) -> None:
    network_input = InputSpec(shape=(40, 40), layout="hw")
    for kind in ("image", "channels", "elements"):
        spec = net_spec(name, network_input, layer_norm=True, layer_norm_kind=kind)  # type: ignore[arg-type]
        assert getattr(spec, "layer_norm_kind", None) == (None if name == "mlp" else kind)
    for setting, message in (
        ({"layer_norm_kind": "channels"}, "layer_norm_kind must be left out without layer_norm, got 'channels'"),
        ({"layer_norm": True, "layer_norm_kind": "pixel"}, "layer_norm_kind must be one of image, channels, elements"),
    ):
        with pytest.raises(SpecError, match=message):
            net_spec(name, network_input, **setting)  # type: ignore[arg-type]


def test_a_layer_norm_is_written_as_before_there_were_kinds() -> None:
    """So that older torsos, which know no such field, read the model; and that models of theirs are read as before."""
    torso = ConvNetSpec(convs=(ConvLayerSpec(channels=2, kernel=3),), layer_norm=True)
    spec = NetworkSpec(input=InputSpec(shape=(4, 4), layout="hw"), torso=torso, head=LogitsHeadSpec(num_classes=2))
    data = spec.to_json()
    assert set(data["torso"]) == {"kind", "convs", "hidden", "activation", "dropout", "layer_norm", "batch_norm"}
    assert NetworkSpec.from_json(data).torso.layer_norm_kind == "image"
    other = replace(spec, torso=replace(torso, layer_norm_kind="elements"))
    assert other.to_json()["torso"]["layer_norm_kind"] == "elements"
    assert NetworkSpec.from_json(other.to_json()) == other


def test_a_head_without_noise_is_written_as_before_there_was_noise() -> None:
    """So that older torsos, which know no such field, read the model."""
    plain = ScalarHeadSpec(num_actions=3)
    expected = {"kind": "scalar", "num_actions": 3, "huber_delta": 1.0, "dueling": False, "hidden": []}
    assert HEADS.to_json(plain) == expected
    assert HEADS.from_json(expected) == plain
    noisy = ScalarHeadSpec(num_actions=3, noisy=True, noisy_std=0.25, hidden=(4,))
    assert HEADS.to_json(noisy) == {**expected, "hidden": [4], "noisy": True, "noisy_std": 0.25}
    assert HEADS.from_json(HEADS.to_json(noisy)) == noisy
