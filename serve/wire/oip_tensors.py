"""Open Inference Protocol V2: a model's tensors, validation and decoding of requests, encoding of answers.

`check_input` and `requested_outputs` validate a request without its values, at little cost; `read_input` and
`write_answer` decode and encode the values. Most requests to a model differ in their values alone, so the validated
headers of inputs, and the encoded headers of answers, are cached.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array
from torso.errors import InputError
from torso.nets import Predictor
from torso.proto import oip_pb2 as pb
from torso.serve.wire.datatypes import CONTENTS, DTYPE_NAMES, DTYPES, INTEGER_DATATYPES
from torso.serve.wire.oip_signature import InputForm, RequestedOutputs, Signature
from torso.serve.wire.tensors import MAX_RANK, quoted

OIP_SERVICE = "inference.GRPCInferenceService"  # on the wire; oip.proto gives the reason for another name there

INPUT = "inputs[0]"  # the only input's name in errors
CLASSIFICATION = "classification"  # an output's parameter
SHARED_MEMORY = "shared_memory_region"  # an input's or output's
MAX_CACHED = 64  # headers of a model's inputs, and of its answers
MAX_CACHED_BYTES = 256  # of an input's header; longer ones are not cached


class EncodedInput(NamedTuple):
    """A request's validated input, its values not decoded yet."""

    form: InputForm
    values: bytes | pb.ModelInferRequest.InferInputTensor  # raw, or the tensor that holds typed ones

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.form.shape[0]


def check_input(request: pb.ModelInferRequest, signature: Signature) -> EncodedInput:
    """Validate a request's input without its values; InputError where it does not fit the model."""
    contents = request.raw_input_contents
    if len(request.inputs) != 1 or len(contents) != 1:
        return EncodedInput(_checked_form(request, signature), request.inputs[0])
    header = request.inputs[0].SerializeToString()
    raw = contents[0]
    form = signature.cached_forms.get(header)
    if form is None or len(raw) != form.num_bytes:
        form = _checked_form(request, signature)
        if len(signature.cached_forms) < MAX_CACHED and len(header) <= MAX_CACHED_BYTES:
            signature.cached_forms[header] = form
    return EncodedInput(form, raw)


def _checked_form(request: pb.ModelInferRequest, signature: Signature) -> InputForm:
    model_input = signature.input
    if len(request.inputs) != 1:
        raise InputError("inputs", expected=f"one tensor named {model_input.name!r}", got=str(len(request.inputs)))
    tensor = request.inputs[0]
    if tensor.name != model_input.name:
        raise InputError(f"{INPUT}.name", expected=repr(model_input.name), got=quoted(tensor.name))
    if len(tensor.shape) > MAX_RANK:
        raise InputError(f"{INPUT}.shape", expected=f"at most {MAX_RANK} axes", got=f"{len(tensor.shape)}")
    is_raw = tensor.datatype in INTEGER_DATATYPES and tuple(tensor.shape[1:]) in signature.raw_shapes
    if not is_raw and tensor.datatype != model_input.datatype:
        expected = f"{model_input.datatype}{_raw_text(signature)}"
        raise InputError(f"{INPUT}.datatype", expected=expected, got=quoted(tensor.datatype))
    expected = f"{_shape_text(model_input.shape)}{_raw_text(signature)}"
    if not is_raw and len(tensor.shape) != len(model_input.shape) + 1:
        raise InputError(f"{INPUT}.shape", expected=expected, got=f"{len(tensor.shape)} axes")
    if not tensor.shape or tensor.shape[0] < 1 or not (is_raw or tuple(tensor.shape[1:]) == model_input.shape):
        raise InputError(f"{INPUT}.shape", expected=expected, got=str(list(tensor.shape)))
    form = InputForm(DTYPES[DTYPE_NAMES[tensor.datatype]], tuple(tensor.shape), is_raw)
    if SHARED_MEMORY in tensor.parameters:
        raise InputError(f"{INPUT}.parameters", expected="without shared memory", got="shared memory")
    if request.raw_input_contents:
        _check_raw(request, tensor, form.num_bytes)
    else:
        _check_contents(tensor, form.num_values)
    return form


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, ('batch', *shape)))}]"


def _raw_text(signature: Signature) -> str:
    """Return an error's words for the env's own numbers; empty where the model does not take them."""
    shapes = " or ".join(map(_shape_text, signature.raw_shapes))
    return f", or integers {shapes} of {signature.space}" if shapes else ""


def _check_raw(request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, num_bytes: int) -> None:
    if tensor.HasField("contents"):
        raise InputError(f"{INPUT}.contents", expected="empty beside raw_input_contents", got="both")
    raw = request.raw_input_contents
    if len(raw) != 1:
        raise InputError("raw_input_contents", expected="as many as inputs, 1", got=str(len(raw)))
    if len(raw[0]) != num_bytes:
        expected = f"{num_bytes} bytes for shape {list(tensor.shape)} of {tensor.datatype}"
        raise InputError("raw_input_contents[0]", expected=expected, got=f"{len(raw[0])} bytes")


def _check_contents(tensor: pb.ModelInferRequest.InferInputTensor, num_values: int) -> None:
    name = CONTENTS[tensor.datatype][0] if tensor.datatype in CONTENTS else None
    if name is None:
        raise InputError("raw_input_contents", expected=f"set, as {tensor.datatype} has no typed contents", got="none")
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if not filled:
        raise InputError("raw_input_contents", expected=f"set, or {INPUT}.contents.{name}", got="neither")
    if filled != [name]:
        raise InputError(f"{INPUT}.contents", expected=f"values in {name}", got=f"{', '.join(filled)}")
    got = len(getattr(tensor.contents, name))
    if got != num_values:
        raise InputError(f"{INPUT}.contents.{name}", expected=f"{num_values} values", got=str(got))


def read_input(encoded: EncodedInput, signature: Signature) -> Array:
    """Decode an input to the backend's array, [B, *shape].

    Raises InputError on values that the dtype does not have, and on numbers outside the env's space. NaN and infinity
    are values: the protocol's other servers compute with them, and perf_analyzer, unless configured otherwise, sends
    random bytes.
    """
    form = encoded.form
    if isinstance(encoded.values, bytes):
        array = np.frombuffer(encoded.values, form.dtype)
        if form.dtype.kind == "b" and int(array.view(np.uint8).max()) > 1:
            raise InputError("raw_input_contents[0]", expected="BOOLs of 0 or 1", got="another byte")
    else:
        array = _typed_values(encoded.values, form.dtype)
    if form.is_raw and signature.space is not None:
        numbers = array.astype(form.dtype.newbyteorder("="), copy=False)
        rows, _ = signature.space.flatten(numbers.reshape(encoded.rows, *signature.raw_shapes[0]), INPUT, strict=True)
        array = numbers if rows is None else rows
    elif signature.is_ambiguous and not (array == 1).all():
        expected = f"rows of 1, the only observation of {signature.space} as it is flattened"
        raise InputError(INPUT, expected=expected, got="another value")
    return array.reshape(encoded.rows, *signature.input.shape).astype(signature.native_dtype, copy=False)


def _typed_values(tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any]) -> Array:
    name, wide = CONTENTS[tensor.datatype]
    values = np.array(getattr(tensor.contents, name), dtype=wide)
    narrow = values.astype(dtype)
    if narrow.dtype.kind in "iu" and not np.array_equal(narrow, values):
        got = f"values from {values.min()} to {values.max()}"
        raise InputError(f"{INPUT}.contents.{name}", expected=f"values that {tensor.datatype} can hold", got=got)
    return narrow


def requested_outputs(request: pb.ModelInferRequest, signature: Signature) -> RequestedOutputs:
    """Return the requested outputs, all where a request names none; InputError where the model has no such output."""
    if not request.outputs:
        return signature.all_outputs
    if len(request.outputs) > len(signature.outputs):
        known = ", ".join(signature.outputs)
        raise InputError(
            "outputs", expected=f"at most {len(signature.outputs)}, one each of {known}", got=str(len(request.outputs))
        )
    requested: dict[str, int] = {}
    for index, output in enumerate(request.outputs):
        if output.name not in signature.outputs or output.name in requested:
            got = f"{quoted(output.name)}{' again' if output.name in requested else ''}"
            raise InputError(f"outputs[{index}].name", expected=f"one of {', '.join(signature.outputs)}", got=got)
        requested[output.name] = _checked_parameters(output, f"outputs[{index}].parameters", signature)
    return tuple(requested.items())


def _checked_parameters(
    output: pb.ModelInferRequest.InferRequestedOutputTensor, field: str, signature: Signature
) -> int:
    if SHARED_MEMORY in output.parameters:
        raise InputError(field, expected="without shared memory", got="shared memory")
    if CLASSIFICATION not in output.parameters:
        return 0
    classes = output.parameters[CLASSIFICATION].int64_param
    if not signature.classifies:
        raise InputError(field, expected="without classification, which a regressor does not do", got=str(classes))
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
    requested: RequestedOutputs,
) -> bytes:
    """Encode a response of the model and version with the requested outputs of its answers, [B, K]; raw, serialised."""
    raw = [_raw_output(name, classes, predictor, answers) for name, classes in requested]
    values = pb.ModelInferResponse(id=request_id, raw_output_contents=raw)
    key = (len(answers), requested)
    header = signature.cached_headers.get(key)
    if header is None:
        header = _answer_header(version, signature, requested, answers.shape)
        if len(signature.cached_headers) < MAX_CACHED:
            signature.cached_headers[key] = header
    return header + values.SerializeToString()  # serialised messages that follow one another are one message


def _raw_output(name: str, classes: int, predictor: Predictor, answers: NDArray[np.float32]) -> bytes:
    if classes:
        return _encoded_classes(predictor, answers, classes)
    if name == "actions":
        return predictor.greedy(answers).astype("<i8", copy=False).tobytes()
    return answers.astype("<f4", copy=False).tobytes()


def _answer_header(
    version: tuple[str, str], signature: Signature, requested: RequestedOutputs, shape: tuple[int, ...]
) -> bytes:
    rows, width = shape
    header = pb.ModelInferResponse(model_name=version[0], model_version=version[1])
    for name, classes in requested:
        tensor = signature.outputs[name]
        if classes:
            header.outputs.add(name=name, datatype="BYTES", shape=(rows, min(classes, width)))
        else:
            header.outputs.add(name=name, datatype=tensor.datatype, shape=(rows, *tensor.shape))
    return header.SerializeToString()


def _encoded_classes(predictor: Predictor, values: NDArray[np.float32], classes: int) -> bytes:
    """Encode each row's best classes, of [B, K], best first, as ``VALUE:INDEX:LABEL``, BYTES [B, min(classes, K)]."""
    labels = [f":{label}" for label in predictor.labels] if predictor.kind == "classifier" else [""] * values.shape[1]
    indices, best = predictor.top_k(values, classes)
    elements = [
        f"{value:f}:{index}{labels[index]}".encode()
        for value, index in zip(best.ravel().tolist(), indices.ravel().tolist(), strict=True)
    ]
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
