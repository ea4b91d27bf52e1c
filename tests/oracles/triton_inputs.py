"""Request inputs of the tests' models for the stock tritonclient."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as triton


def tensor(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    return tensor.set_data_from_numpy(array)


def scans(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(17, size=(rows, 8, 8), dtype=np.uint8)


def digits(rows: int = 1, seed: int = 0) -> list[triton.InferInput]:
    return [tensor("tensor", scans(rows, seed), "UINT8")]


def cart(*rows: list[float]) -> list[triton.InferInput]:
    return [tensor("observations", np.array(rows or [[0, 0, 0, 0]], dtype=np.float32), "FP32")]
