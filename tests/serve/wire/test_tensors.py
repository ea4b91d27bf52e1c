from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torso.errors import InputError
from torso.proto import prediction_pb2 as pb
from torso.serve.wire.datatypes import DTYPES
from torso.serve.wire.tensors import MAX_RANK, array_to_tensor, tensor_to_array

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
)


@given(arrays)
def test_an_array_survives_the_wire_bit_for_bit(array: np.ndarray) -> None:
    tensor = pb.Tensor.FromString(array_to_tensor(array).SerializeToString())
    back = tensor_to_array(tensor)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert not back.flags.writeable


@given(arrays)
def test_layout_and_byte_order_do_not_matter(array: np.ndarray) -> None:
    odd = np.array(array, order="F").astype(array.dtype.newbyteorder(">"), order="K")
    assert array_to_tensor(odd) == array_to_tensor(array)


def test_elements_travel_little_endian_in_c_order() -> None:
    tensor = array_to_tensor(np.array([[1, 2], [3, 4]], dtype=np.uint16))
    assert (tensor.dtype, list(tensor.shape), tensor.data) == ("uint16", [2, 2], b"\1\0\2\0\3\0\4\0")


@given(
    st.one_of(st.sampled_from([*DTYPES, "float128", "object", "O", "<f4", "U3", "V8", ""]), st.text(max_size=60)),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 4), max_size=MAX_RANK + 2),
    st.binary(max_size=64),
)
def test_any_tensor_is_an_array_or_an_input_error(dtype: str, shape: list[int], data: bytes) -> None:
    tensor = pb.Tensor(dtype=dtype, shape=shape, data=data)
    try:
        got: bytes | InputError = tensor_to_array(tensor, "observations").tobytes()
    except InputError as error:
        got = error
    if isinstance(got, InputError):
        assert got.field.startswith("observations.")
        assert len(str(got)) < 700
    else:
        assert got == data


@pytest.mark.parametrize(
    ("tensor", "field", "expected", "got"),
    [
        (
            pb.Tensor(dtype="float32", shape=[2], data=b"1234567"),
            "t.data",
            "8 bytes for shape [2] of float32",
            "7 bytes",
        ),
        (pb.Tensor(dtype="complex64", shape=[1], data=b"12345678"), "t.dtype", "one of bool, uint8", "'complex64'"),
        (pb.Tensor(dtype="uint8", shape=[-1, 4], data=b""), "t.shape", "axes of length 0 or more", "[-1, 4]"),
        (pb.Tensor(dtype="uint8", shape=[0, 2**62, 8], data=b""), "t.shape", "elements", "[0, 4611686018427387904, 8]"),
        (pb.Tensor(dtype="uint8", shape=[1] * 17, data=b"1"), "t.shape", "at most 16 axes", "17"),
        (pb.Tensor(dtype="bool", shape=[1], data=b"\2"), "t.data", "bools of 0 or 1", "another byte"),
    ],
)
def test_a_bad_tensor_is_named(tensor: pb.Tensor, field: str, expected: str, got: str) -> None:
    with pytest.raises(InputError) as caught:
        tensor_to_array(tensor, "t")
    assert caught.value.field == field
    assert expected in caught.value.expected
    assert got in caught.value.got


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.array([1j]), np.zeros(1, "datetime64[s]")])
def test_what_has_no_place_on_the_wire_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="array of one of bool"):
        array_to_tensor(array)
