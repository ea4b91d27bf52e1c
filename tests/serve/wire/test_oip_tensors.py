"""Encoding and decoding of the Open Inference Protocol's messages, without a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype

from torso.errors import InputError
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    ModelCard,
    NetworkSpec,
    Predictor,
    ScalarHeadSpec,
    TorchBackend,
    build_network,
)
from torso.nets.specs.inputs import INPUT_DTYPES
from torso.proto import oip_pb2 as pb
from torso.serve.wire.datatypes import CONTENTS, DATATYPES
from torso.serve.wire.oip_tensors import Signature, check_input, read_input, requested_outputs, write_answer


def make_predictor(dtype: str = "float32", kind: str = "classifier", shape: tuple[int, ...] = (2, 3)) -> Predictor:
    head = LogitsHeadSpec(num_classes=3) if kind == "classifier" else ScalarHeadSpec(num_actions=3)
    spec = NetworkSpec(input=InputSpec(shape=shape, dtype=dtype), torso=MLPSpec(hidden=()), head=head)
    labels = ("zero", "one:1", "zwei ü") if kind == "classifier" else None
    network = build_network(spec, torch.Generator().manual_seed(0))
    start = 0 if kind == "classifier" else 5
    card = ModelCard(kind=kind, network=spec, weights_sha256="0" * 64, labels=labels, action_start=start)
    return Predictor(card, TorchBackend(network))


def values_of(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values over the dtype's whole range."""
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(2, size=shape).astype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
        values.flat[:2] = limits.min, limits.max
        return values
    limit = np.finfo(dtype)
    values = rng.standard_normal(shape).astype(dtype)
    values.flat[:2] = limit.max, limit.smallest_subnormal
    return values


def raw_request(array: np.ndarray, name: str = "tensor", datatype: str | None = None) -> pb.ModelInferRequest:
    """As the stock client writes it."""
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    request = pb.ModelInferRequest.FromString(
        service_pb2.ModelInferRequest(
            inputs=[tensor._get_tensor()], raw_input_contents=[tensor._get_content()]
        ).SerializeToString()
    )
    if datatype is not None:
        request.inputs[0].datatype = datatype
    return request


def typed_request(array: np.ndarray, **contents: list[Any]) -> pb.ModelInferRequest:
    request = raw_request(array)
    del request.raw_input_contents[:]
    for field, values in contents.items():
        getattr(request.inputs[0].contents, field).extend(values)
    return request


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INPUT_DTYPES)
def test_raw_values_of_every_datatype_arrive_as_they_were_sent(dtype: str) -> None:
    predictor = make_predictor(dtype)
    signature = Signature(predictor)
    sent = values_of(dtype, (4, 2, 3))
    request = raw_request(sent)
    given = check_input(request, signature)
    assert given.rows == 4
    got = read_input(given, signature)
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize("dtype", [dtype for dtype in INPUT_DTYPES if dtype != "float16"])
def test_typed_values_of_every_datatype_arrive_as_they_were_sent(dtype: str) -> None:
    predictor = make_predictor(dtype)
    signature = Signature(predictor)
    sent = values_of(dtype, (4, 2, 3))
    request = typed_request(sent, **{CONTENTS[signature.input.datatype][0]: sent.ravel().tolist()})
    given = check_input(request, signature)
    assert given.rows == 4
    got = read_input(given, signature)
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


def test_every_dtype_of_a_model_has_a_datatype_that_the_stock_client_calls_the_same() -> None:
    assert {dtype: np_to_triton_dtype(np.dtype(dtype)) for dtype in DATATYPES} == DATATYPES
    assert set(INPUT_DTYPES) <= set(DATATYPES)
    assert set(CONTENTS) == set(DATATYPES.values()) - {"FP16"}


ROW = np.zeros((1, 2, 3), dtype=np.float32)
Change = Callable[[pb.ModelInferRequest], object]


def also_contents(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(0)


def two_inputs(request: pb.ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])


def shared_memory(request: pb.ModelInferRequest) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    request.ClearField("raw_input_contents")


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        (lambda request: request.ClearField("inputs"), "inputs", "inputs must be one tensor named 'tensor', got 0"),
        (two_inputs, "inputs", "got 2"),
        (lambda request: setattr(request.inputs[0], "name", "x" * 99), "inputs[0].name", "'tensor', got 'xxx"),
        (lambda request: setattr(request.inputs[0], "datatype", "FP64"), "inputs[0].datatype", "FP32, got 'FP64'"),
        (lambda request: setattr(request.inputs[0], "datatype", "BF16"), "inputs[0].datatype", "FP32, got 'BF16'"),
        (lambda request: setattr(request.inputs[0], "datatype", "BYTES"), "inputs[0].datatype", "got 'BYTES'"),
        (lambda request: setattr(request.inputs[0], "datatype", ""), "inputs[0].datatype", "got ''"),
        (lambda request: request.inputs[0].shape.append(1), "inputs[0].shape", "[batch, 2, 3], got 4 axes"),
        (lambda request: request.inputs[0].ClearField("shape"), "inputs[0].shape", "got 0 axes"),
        (lambda request: request.inputs[0].shape.__setitem__(0, 0), "inputs[0].shape", "got [0, 2, 3]"),
        (lambda request: request.inputs[0].shape.__setitem__(0, -1), "inputs[0].shape", "got [-1, 2, 3]"),
        (lambda request: request.inputs[0].shape.__setitem__(2, 2), "inputs[0].shape", "got [1, 2, 2]"),
        (lambda request: request.inputs[0].shape.__setitem__(0, 2**62), "raw_input_contents[0]", "got 24 bytes"),
        (lambda request: request.raw_input_contents.__setitem__(0, b"123"), "raw_input_contents[0]", "got 3 bytes"),
        (lambda request: request.raw_input_contents.__setitem__(0, bytes(25)), "raw_input_contents[0]", "got 25 bytes"),
        (
            lambda request: request.raw_input_contents.append(b""),
            "raw_input_contents",
            "must be as many as inputs, 1, got 2",
        ),
        (lambda request: request.ClearField("raw_input_contents"), "raw_input_contents", "got neither"),
        (also_contents, "inputs[0].contents", "must be empty beside raw_input_contents, got both"),
        (shared_memory, "inputs[0].parameters", "must be without shared memory, got shared memory"),
    ],
)
def test_an_input_that_is_not_the_models_is_refused_by_field(change: Change, field: str, said: str) -> None:
    request = raw_request(ROW)
    change(request)
    signature = Signature(make_predictor())
    for _ in range(2):  # what was refused once is refused again, also after one that was not
        with pytest.raises(InputError) as caught:
            check_input(request, signature)
        assert check_input(raw_request(ROW), signature).rows == len(ROW)
    assert caught.value.field == field
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "contents", "field", "said"),
    [
        ("float32", {"fp32_contents": [0.0] * 5}, "inputs[0].contents.fp32_contents", "6 values, got 5"),
        ("float32", {"fp64_contents": [0.0] * 6}, "inputs[0].contents", "in fp32_contents, got fp64_contents"),
        ("float32", {"fp32_contents": [0.0] * 6, "int_contents": [1]}, "inputs[0].contents", "int_contents, fp32"),
        ("float16", {"fp32_contents": [0.0] * 6}, "raw_input_contents", "FP16 has no typed contents"),
        ("uint8", {"uint_contents": [0, 1, 2, 3, 4, 256]}, "inputs[0].contents.uint_contents", "from 0 to 256"),
        ("int16", {"int_contents": [0, 1, 2, 3, 4, -32769]}, "inputs[0].contents.int_contents", "from -32769 to 4"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused_by_field(
    dtype: str, contents: dict[str, list[Any]], field: str, said: str
) -> None:
    predictor = make_predictor(dtype)
    signature = Signature(predictor)
    request = typed_request(ROW.astype(dtype), **contents)

    def read() -> np.ndarray:
        return read_input(check_input(request, signature), signature)

    with pytest.raises(InputError) as caught:
        read()
    assert caught.value.field == field
    assert said in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite_are_values(dtype: str) -> None:
    sent = ROW.astype(dtype)
    sent.flat[:3] = np.nan, np.inf, -np.inf
    signature = Signature(make_predictor(dtype))
    np.testing.assert_array_equal(read_input(check_input(raw_request(sent), signature), signature), sent)


def test_a_byte_that_is_no_bool_is_refused() -> None:
    request = raw_request(ROW.astype(bool))
    request.raw_input_contents[0] = bytes([0, 1, 0, 1, 2, 0])
    signature = Signature(make_predictor("bool"))
    given = check_input(request, signature)
    with pytest.raises(InputError, match="BOOLs of 0 or 1"):
        read_input(given, signature)


# -- outputs -----------------------------------------------------------------------------------------------------------


def answered(predictor: Predictor, answers: np.ndarray, request: pb.ModelInferRequest) -> triton.InferResult:
    """The answer as the stock client reads it."""
    signature = Signature(predictor)
    wanted = requested_outputs(request, signature)
    for _ in range(2):  # the second with what was kept of the first
        answer = write_answer(("name", "7"), "an id", predictor, signature, answers, wanted)
        response = service_pb2.ModelInferResponse.FromString(answer)
        assert (response.model_name, response.model_version, response.id) == ("name", "7", "an id")
    return triton.InferResult(response)


def asking(**outputs: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name, classes in outputs.items():
        output = request.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    return request


def names(result: triton.InferResult) -> list[str]:
    return [output.name for output in result.get_response().outputs]


READOUT = np.array([[0.0, 2.0, -1.0], [3.0, 1.0, 3.0]], dtype=np.float32)

_ODDS = np.exp(READOUT.astype(np.float64))
PROBABILITIES = (_ODDS / _ODDS.sum(axis=1, keepdims=True)).astype(np.float32)


def test_a_classifier_gives_probabilities() -> None:
    result = answered(make_predictor(), PROBABILITIES, asking())
    assert names(result) == ["probabilities"]
    np.testing.assert_array_equal(result.as_numpy("probabilities"), PROBABILITIES)
    assert result.as_numpy("probabilities").dtype == np.float32


def test_a_policy_gives_actions_and_values_in_the_order_asked_for() -> None:
    predictor = make_predictor(kind="policy")
    result = answered(predictor, READOUT, asking())
    assert names(result) == ["actions", "values"]
    np.testing.assert_array_equal(result.as_numpy("actions"), np.array([6, 5]))  # the lowest among equals, from 5 on
    assert result.as_numpy("actions").dtype == np.int64
    np.testing.assert_array_equal(result.as_numpy("values"), READOUT)
    assert names(answered(predictor, READOUT, asking(values=0, actions=0))) == ["values", "actions"]
    assert names(answered(predictor, READOUT, asking(actions=0))) == ["actions"]


def test_classification_names_the_best_classes() -> None:
    result = answered(make_predictor(), PROBABILITIES, asking(probabilities=2))
    first, second = result.as_numpy("probabilities").tolist()
    assert first == [b"0.843795:1:one:1", b"0.114195:0:zero"]
    assert second == [b"0.468311:0:zero", "0.468311:2:zwei ü".encode()]
    everything = answered(make_predictor(), PROBABILITIES, asking(probabilities=99))
    assert everything.as_numpy("probabilities").shape == (2, 3)
    values = answered(make_predictor(kind="policy"), READOUT, asking(values=1))
    assert deserialize_bytes_tensor(values.get_response().raw_output_contents[0]).tolist() == [
        b"2.000000:1",
        b"3.000000:0",
    ]


@pytest.mark.parametrize(
    ("kind", "outputs", "field", "said"),
    [
        ("classifier", {"values": 0}, "outputs[0].name", "one of probabilities, got 'values'"),
        ("classifier", {"probabilities": 0, "values": 0}, "outputs", "at most 1, one each of probabilities, got 2"),
        ("policy", {"values": 0, "logits": 0}, "outputs[1].name", "one of actions, values, got 'logits'"),
        ("policy", {"actions": 1}, "outputs[0].parameters", "of values, got 1, of actions"),
        ("classifier", {"probabilities": -1}, "outputs[0].parameters", "1 or more, of probabilities, got -1"),
    ],
)
def test_outputs_that_there_are_not_are_refused(kind: str, outputs: dict[str, int], field: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        requested_outputs(asking(**outputs), Signature(make_predictor(kind=kind)))
    assert caught.value.field == field
    assert said in str(caught.value)


def test_an_output_twice_or_in_shared_memory_is_refused() -> None:
    twice = pb.ModelInferRequest(outputs=[{"name": "values"}, {"name": "values"}])
    with pytest.raises(InputError, match="'values' again"):
        requested_outputs(twice, Signature(make_predictor(kind="policy")))
    shared = asking(probabilities=0)
    shared.outputs[0].parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(InputError, match="shared memory"):
        requested_outputs(shared, Signature(make_predictor()))
