"""Data types of tensors: NumPy's names, torso's bytes, the Open Inference Protocol's names and typed contents."""

from __future__ import annotations

import numpy as np

_INTEGERS = [f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)]
_FLOATS = [f"float{bits}" for bits in (16, 32, 64)]

DTYPES: dict[str, np.dtype] = {  # on the wire little-endian, by NumPy's names
    name: np.dtype(name).newbyteorder("<") for name in ("bool", *_INTEGERS, *_FLOATS)
}
DATATYPES: dict[str, str] = {  # by NumPy's names; the protocol also has BF16 and BYTES, which no model takes
    "bool": "BOOL",
    **{name: name.upper() for name in _INTEGERS},
    **{name: name.replace("float", "FP") for name in _FLOATS},
}
DTYPE_NAMES = {datatype: name for name, datatype in DATATYPES.items()}
INTEGER_DATATYPES = frozenset(DATATYPES[name] for name in _INTEGERS)
CONTENTS: dict[str, tuple[str, type[np.generic]]] = {  # the field of typed values, and its type; FP16 has none
    "BOOL": ("bool_contents", np.bool_),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", np.int32)),
    "INT64": ("int64_contents", np.int64),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", np.uint32)),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
}
