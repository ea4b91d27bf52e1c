"""What a served model is in the Open Inference Protocol V2: its tensors, and requests and answers as arrays.

What can be said of a request without looking at its values `given_input` and `wanted_outputs` say, at little cost;
`read_input` and `write_answer` do the work. Most requests to a model differ in their values alone, so what was found
out of the rest of one, and written of the rest of its answer, is kept for the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array
from torso.errors import InputError
from torso.nets import Predictor
from torso.proto import oip_pb2 as pb
from torso.serve.wire.datatypes import CONTENTS, DATATYPES, DTYPES
from torso.serve.wire.tensors import quoted

Wanted = tuple[tuple[str, int], ...]  # outputs in order: name, how many best classes to name, 0: to give the values

OIP_SERVICE = "inference.GRPCInferenceService"  # on the wire; oip.proto says why it has another name there

INPUT = "inputs[0]"  # what errors call the only input there is
CLASSIFICATION = "classification"  # an output's parameter
SHARED_MEMORY = "shared_memory_region"  # an input's or output's
KEPT, KEPT_BYTES = 64, 256  # how many headers of inputs, and of answers, a model keeps; inputs' longer ones it does not


@dataclass(frozen=True, kw_only=True)
class TensorMetadata:
    """A tensor that a model takes or gives; ``shape`` leaves the batch out."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature:
    """What a model takes and gives: a classifier probabilities, a policy actions and values."""

    def __init__(self, predictor: Predictor) -> None:
        spec = predictor.input
        classifier = predictor.kind == "classifier"
        self.dtype = DTYPES[spec.dtype]  # of the input, as on the wire
        self.native_dtype = spec.numpy_dtype
        self.row_bytes = math.prod(spec.shape) * self.dtype.itemsize
        self.input = TensorMetadata(
            name="tensor" if classifier else "observations", datatype=DATATYPES[spec.dtype], shape=spec.shape
        )
        self.readout = TensorMetadata(
            name="probabilities" if classifier else "values", datatype="FP32", shape=(predictor.num_outputs,)
        )
        actions = TensorMetadata(name="actions", datatype="INT64", shape=())
        self.outputs = {output.name: output for output in ((self.readout,) if classifier else (actions, self.readout))}
        self.everything: Wanted = tuple((name, 0) for name in self.outputs)
        self.rows_of: dict[bytes, int] = {}  # by what says it, in protobuf's bytes: an input's name, datatype and shape
        self.answers: dict[tuple[int, Wanted], bytes] = {}  # by rows and outputs: an answer less its values


class Given(NamedTuple):
    """A request's input, its values not looked at yet."""

    rows: int
    values: bytes | pb.ModelInferRequest.InferInputTensor  # raw, or the tensor that has them typed


def given_input(request: pb.ModelInferRequest, signature: Signature) -> Given:
    """Check all of a request's input but its values; InputError where it is not the model's."""
    contents = request.raw_input_contents
    if len(request.inputs) != 1 or len(contents) != 1:
        return Given(_claimed_rows(request, signature), request.inputs[0])
    header = request.inputs[0].SerializeToString()
    raw = contents[0]
    rows = signature.rows_of.get(header)
    if rows is None or len(raw) != rows * signature.row_bytes:
        rows = _claimed_rows(request, signature)
        if len(signature.rows_of) < KEPT and len(header) <= KEPT_BYTES:
            signature.rows_of[header] = rows
    return Given(rows, raw)


def _claimed_rows(request: pb.ModelInferRequest, signature: Signature) -> int:
    wanted = signature.input
    if len(request.inputs) != 1:
        raise InputError("inputs", expected=f"one, named {wanted.name!r}", got=str(len(request.inputs)))
    tensor = request.inputs[0]
    if tensor.name != wanted.name:
        raise InputError(f"{INPUT}.name", expected=repr(wanted.name), got=quoted(tensor.name))
    if tensor.datatype != wanted.datatype:
        raise InputError(f"{INPUT}.datatype", expected=wanted.datatype, got=quoted(tensor.datatype))
    if len(tensor.shape) != len(wanted.shape) + 1:
        raise InputError(f"{INPUT}.shape", expected=_in_words(wanted), got=f"{len(tensor.shape)} axes")
    rows = tensor.shape[0]
    if rows < 1 or tuple(tensor.shape[1:]) != wanted.shape:
        raise InputError(f"{INPUT}.shape", expected=_in_words(wanted), got=str(list(tensor.shape)))
    if SHARED_MEMORY in tensor.parameters:
        raise InputError(f"{INPUT}.parameters", expected="values in the request", got="shared memory")
    if request.raw_input_contents:
        _check_raw(request, tensor, rows * signature.row_bytes)
    else:
        _check_contents(tensor, rows * math.prod(wanted.shape))
    return rows


def _in_words(tensor: TensorMetadata) -> str:
    return f"[{', '.join(map(str, ('batch', *tensor.shape)))}]"


def _check_raw(request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, num_bytes: int) -> None:
    if tensor.HasField("contents"):
        raise InputError(f"{INPUT}.contents", expected="none beside raw_input_contents", got="both")
    raw = request.raw_input_contents
    if len(raw) != 1:
        raise InputError("raw_input_contents", expected="1, as inputs", got=str(len(raw)))
    if len(raw[0]) != num_bytes:
        expected = f"{num_bytes} bytes for shape {list(tensor.shape)} of {tensor.datatype}"
        raise InputError("raw_input_contents[0]", expected=expected, got=f"{len(raw[0])} bytes")


def _check_contents(tensor: pb.ModelInferRequest.InferInputTensor, num_values: int) -> None:
    name = CONTENTS[tensor.datatype][0] if tensor.datatype in CONTENTS else None
    if name is None:
        raise InputError("raw_input_contents", expected=f"1: {tensor.datatype} has no typed contents", got="none")
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if not filled:
        raise InputError("raw_input_contents", expected=f"1, or values in {INPUT}.contents.{name}", got="neither")
    if filled != [name]:
        raise InputError(f"{INPUT}.contents", expected=f"values in {name}", got=f"{', '.join(filled)}")
    got = len(getattr(tensor.contents, name))
    if got != num_values:
        raise InputError(f"{INPUT}.contents.{name}", expected=f"{num_values} values", got=str(got))


def read_input(given: Given, signature: Signature) -> Array:
    """Read an input as the backend takes it, [B, *shape].

    Raises InputError on values that the dtype does not have. NaN and infinity are values: the protocol's other servers
    compute with them, and perf_analyzer, unless told otherwise, sends random bytes.
    """
    if isinstance(given.values, bytes):
        array = np.frombuffer(given.values, signature.dtype)
        if signature.dtype.kind == "b" and int(array.view(np.uint8).max()) > 1:
            raise InputError("raw_input_contents[0]", expected="BOOLs of 0 or 1", got="another byte")
    else:
        array = _typed_values(given.values, signature.dtype)
    return array.reshape(given.rows, *signature.input.shape).astype(signature.native_dtype, copy=False)


def _typed_values(tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any]) -> Array:
    name, wide = CONTENTS[tensor.datatype]
    values = np.array(getattr(tensor.contents, name), dtype=wide)
    narrow = values.astype(dtype)
    if narrow.dtype.kind in "iu" and not np.array_equal(narrow, values):
        got = f"values from {values.min()} to {values.max()}"
        raise InputError(f"{INPUT}.contents.{name}", expected=f"values that {tensor.datatype} can hold", got=got)
    return narrow


def wanted_outputs(request: pb.ModelInferRequest, signature: Signature) -> Wanted:
    """Return the outputs that a request asks for, all where it names none; InputError where there are none such."""
    if not request.outputs:
        return signature.everything
    if len(request.outputs) > len(signature.outputs):
        known = ", ".join(signature.outputs)
        raise InputError("outputs", expected=f"each at most once of {known}", got=str(len(request.outputs)))
    wanted: dict[str, int] = {}
    for index, output in enumerate(request.outputs):
        if output.name not in signature.outputs or output.name in wanted:
            got = f"{quoted(output.name)}{' again' if output.name in wanted else ''}"
            raise InputError(f"outputs[{index}].name", expected=f"one of {', '.join(signature.outputs)}", got=got)
        wanted[output.name] = _checked_parameters(output, f"outputs[{index}].parameters", signature)
    return tuple(wanted.items())


def _checked_parameters(
    output: pb.ModelInferRequest.InferRequestedOutputTensor, field: str, signature: Signature
) -> int:
    if SHARED_MEMORY in output.parameters:
        raise InputError(field, expected="an answer that holds the values", got="shared memory")
    if CLASSIFICATION not in output.parameters:
        return 0
    classes = output.parameters[CLASSIFICATION].int64_param
    if classes < 1 or output.name != signature.readout.name:
        expected = f"a classification of 1 or more, of {signature.readout.name}"
        raise InputError(field, expected=expected, got=f"{classes}, of {output.name}")
    return classes


def write_answer(
    version: tuple[str, str],
    request_id: str,
    predictor: Predictor,
    signature: Signature,
    answers: NDArray[np.float32],
    wanted: Wanted,
) -> bytes:
    """Write a response of the model and version with the wanted outputs of its answers, [B, K]; raw, serialised."""
    raw = [_raw_output(name, classes, predictor, answers) for name, classes in wanted]
    values = pb.ModelInferResponse(id=request_id, raw_output_contents=raw)
    key = (len(answers), wanted)
    header = signature.answers.get(key)
    if header is None:
        header = _answer_header(version, signature, wanted, answers.shape)
        if len(signature.answers) < KEPT:
            signature.answers[key] = header
    return header + values.SerializeToString()  # serialised messages that follow one another are one message


def _raw_output(name: str, classes: int, predictor: Predictor, answers: NDArray[np.float32]) -> bytes:
    if classes:
        return _named_classes(predictor, answers, classes)
    if name == "actions":
        return predictor.greedy(answers).astype("<i8", copy=False).tobytes()
    return answers.astype("<f4", copy=False).tobytes()


def _answer_header(version: tuple[str, str], signature: Signature, wanted: Wanted, shape: tuple[int, ...]) -> bytes:
    rows, width = shape
    header = pb.ModelInferResponse(model_name=version[0], model_version=version[1])
    for name, classes in wanted:
        tensor = signature.outputs[name]
        if classes:
            header.outputs.add(name=name, datatype="BYTES", shape=(rows, min(classes, width)))
        else:
            header.outputs.add(name=name, datatype=tensor.datatype, shape=(rows, *tensor.shape))
    return header.SerializeToString()


def _named_classes(predictor: Predictor, values: NDArray[np.float32], classes: int) -> bytes:
    """Name the best classes of each row of [B, K], best first, as ``VALUE:INDEX:LABEL``, BYTES [B, min(classes, K)]."""
    labels = [f":{label}" for label in predictor.labels] if predictor.kind == "classifier" else [""] * values.shape[1]
    indices, best = predictor.top_k(values, classes)
    elements = [
        f"{value:f}:{index}{labels[index]}".encode()
        for value, index in zip(best.ravel().tolist(), indices.ravel().tolist(), strict=True)
    ]
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
