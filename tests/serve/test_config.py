"""What a server is told checks itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from torso.errors import ConfigError
from torso.serve import ServeConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ()}, "models: expected at least one"),
        ({"port": -1}, "port: expected 0 to 65535, got -1"),
        ({"port": 65536}, "port"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"max_batch_rows": 0}, "max_batch_rows: expected at least 1, got 0"),
        ({"max_queue_rows": 0}, "max_queue_rows"),
        ({"max_message_mib": 0}, "max_message_mib"),
        ({"max_message_mib": 4096}, "max_message_mib: expected at most 2047"),
        ({"finish_s": -1.0}, "finish_s"),
        ({"tls_cert": Path("c")}, "tls_cert and tls_key go together"),
        ({"backend": "gpu"}, "backend: expected auto, onnx, torch or cuda, got 'gpu'"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**{"models": ("m",), **settings})
