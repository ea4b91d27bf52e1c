"""Validation of ServeConfig."""

from __future__ import annotations

from pathlib import Path

import pytest

from torso.errors import ConfigError
from torso.serve import ServeConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ()}, "models must hold at least one model or run directory, got none"),
        ({"port": -1}, r"port must lie in \[0, 65535\], got -1"),
        ({"port": 65536}, "port"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"max_batch_rows": 0}, "max_batch_rows must be at least 1, got 0"),
        ({"max_queue_rows": 0}, "max_queue_rows"),
        ({"max_message_mib": 0}, "max_message_mib"),
        ({"max_message_mib": 4096}, "max_message_mib must be at most 2047, got 4096"),
        ({"finish_s": -1.0}, "finish_s"),
        ({"tls_cert": Path("c")}, "tls_cert and tls_key must go together, got one"),
        ({"backend": "gpu"}, "backend must be auto, onnx, torch or cuda, got 'gpu'"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**{"models": ("m",), **settings})
