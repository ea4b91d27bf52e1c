"""Costs of messages, told before they are decoded, against what protobuf decodes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import InputError
from torso.proto import oip_pb2, prediction_pb2
from torso.serve.wire import message_cost
from torso.serve.wire.message_cost import MAX_FIELDS, MAX_NUMBERS, SMALL_BYTES, check_cost
from torso.serve.wire.messages import parse_message

MILLION = 1_000_000
Infer = oip_pb2.ModelInferRequest


def length_field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def test_usual_messages_pass() -> None:
    tensor = prediction_pb2.Tensor(dtype="uint8", shape=[4096, 784], data=bytes(4096 * 784))
    images = prediction_pb2.Images(encoded=[bytes(10_000)] * 4096)
    raw = Infer(
        model_name="m", inputs=[Infer.InferInputTensor(name="x", shape=[1, 1])], raw_input_contents=[bytes(MILLION)]
    )
    typed = Infer(inputs=[Infer.InferInputTensor(contents=oip_pb2.InferTensorContents(fp32_contents=[1.5] * MILLION))])
    for message in (
        prediction_pb2.ClassifyRequest(model="m", tensor=tensor),
        prediction_pb2.ClassifyRequest(model="m", images=images),
        prediction_pb2.ActRequest(observations=tensor, state=[tensor] * 2),
        raw,
        typed,
    ):
        assert parse_message(type(message), message.SerializeToString()) == message


@pytest.mark.parametrize(
    ("message_class", "data", "expected"),
    [
        (Infer, length_field(5, b"") * MILLION, f"at most {MAX_FIELDS} fields"),
        (Infer, length_field(6, b"") * MILLION, f"at most {MAX_FIELDS} fields"),
        (Infer, length_field(7, b"") * MILLION, f"at most {MAX_FIELDS} fields"),
        (Infer, length_field(4, b"") * MILLION, f"at most {MAX_FIELDS} fields"),  # parameters
        (Infer, length_field(5, length_field(4, b"") * MILLION), f"at most {MAX_FIELDS} fields"),  # an input's
        (Infer, length_field(5, length_field(3, bytes(MILLION))), f"at most {MAX_NUMBERS} numbers"),  # its shape
        (Infer, length_field(5, (b"\x18\x01") * MILLION), f"at most {MAX_FIELDS} fields"),  # unpacked
        (Infer, length_field(5, length_field(5, length_field(8, b"") * MILLION)), f"at most {MAX_FIELDS} fields"),
        (Infer, length_field(5, length_field(3, bytes(1000)) * 1000), f"at most {MAX_NUMBERS} numbers"),  # in parts
        (Infer, length_field(99, b"") * MILLION, f"at most {MAX_FIELDS} fields"),  # that no message has
        (
            prediction_pb2.ClassifyRequest,
            length_field(3, length_field(2, bytes(MILLION))),
            f"at most {MAX_NUMBERS} numbers",
        ),
        (
            prediction_pb2.ClassifyRequest,
            length_field(4, length_field(1, b"") * MILLION),
            f"at most {MAX_FIELDS} fields",
        ),
        (prediction_pb2.ActRequest, length_field(4, b"") * MILLION, f"at most {MAX_FIELDS} fields"),
        (prediction_pb2.ActRequest, length_field(3, length_field(2, bytes(MILLION))), f"at most {MAX_NUMBERS} numbers"),
        (prediction_pb2.ActStreamRequest, length_field(99, b"") * MILLION, f"at most {MAX_FIELDS} fields"),
        (Infer, b"\x0b" * MILLION, "a message of fields"),  # groups
        (Infer, bytes([0x0A, 255, 255, 255, 255, 15]) + bytes(MILLION), "a message of fields"),  # longer than it is
        (Infer, b"\x80" * MILLION, "a message of fields"),
        (Infer, length_field(1, bytes(MILLION)) + b"\x0d\x00", "a message of fields"),
    ],
)
def test_messages_that_cost_more_than_they_weigh_are_refused_at_once(
    message_class: Any, data: bytes, expected: str
) -> None:
    started = time.perf_counter()
    with pytest.raises(InputError) as caught:
        parse_message(message_class, data)
    assert time.perf_counter() - started < 0.5
    assert expected in str(caught.value)


def test_values_are_counted_as_they_are_decoded() -> None:
    """A varint of one byte becomes a number of eight."""
    numbers = oip_pb2.InferTensorContents(int64_contents=[1] * 40_000, fp64_contents=[0.5] * 10_000)
    message = Infer(inputs=[Infer.InferInputTensor(contents=numbers)]).SerializeToString()
    assert 120_000 < len(message) < 121_000
    check_cost(Infer, message, max_bytes=400_000)
    with pytest.raises(InputError, match="values of at most 399999 bytes in all; raw contents take the fewest"):
        check_cost(Infer, message, max_bytes=399_999)


@given(st.binary(max_size=300), st.integers(0, 3))
def test_what_protobuf_decodes_passes(data: bytes, repeats: int) -> None:
    """Small messages are not looked at; so the threshold is lowered."""
    data = data * (repeats + 1)
    try:
        Infer.FromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own
        return
    scan = message_cost._Scan(data, MAX_FIELDS, 1 << 20)
    try:
        scan.scan(message_cost._fields(Infer.DESCRIPTOR), 0, len(data), 0)
    except InputError:
        assert any(byte & 7 in (3, 4) for byte in data)  # groups, which protobuf reads and torso's messages lack


def test_small_messages_are_not_looked_at() -> None:
    check_cost(Infer, b"\xff" * SMALL_BYTES, max_bytes=0, max_fields=0)
