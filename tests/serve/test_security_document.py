"""docs/security.md: its limits have the settings' defaults, and none is left out; so do its proxies."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import grpc
import pytest
import yaml
from bare_listener import listening

from torso.serve import ServeConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [
    (re.findall(r"`--([\w-]+)`", cells[2]), cells[3].split(" (")[0].strip().split(", "))
    for line in TEXT.partition("## Limits")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and len(cells := line.split("|")) == 6
]
DEFAULTS = {field.name: field.default for field in fields(ServeConfig)}
LIMITS = {name for name in DEFAULTS if name.startswith("max_") and name != "max_delay_us"}


@pytest.mark.parametrize(("flags", "defaults"), [row for row in ROWS if row[0]], ids=lambda part: ",".join(part))
def test_a_limit_has_its_settings_default(flags: list[str], defaults: list[str]) -> None:
    assert [str(DEFAULTS[flag.replace("-", "_")]) for flag in flags] == defaults


def test_a_compressed_message_is_limited_by_what_it_inflates_to() -> None:
    options = (("grpc.max_receive_message_length", -1),)
    with listening(max_message_mib=1) as server, grpc.insecure_channel(server.address, options) as channel:
        echo = channel.unary_unary("/test.Echo/Echo")
        assert len(echo(bytes(1 << 20), timeout=60, compression=grpc.Compression.Gzip)) == 1 << 20
        with pytest.raises(grpc.RpcError) as refused:
            echo(bytes((1 << 20) + 1), timeout=60, compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_every_limit_of_the_settings_is_there() -> None:
    named = {flag.replace("-", "_") for flags, _ in ROWS for flag in flags}
    assert named >= LIMITS
    assert len(LIMITS) >= 8


def test_the_limits_of_the_proxies_are_the_servers() -> None:
    assert f"client_max_body_size {DEFAULTS['max_message_mib']}m;" in TEXT
    [envoy] = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    listener = yaml.safe_load(envoy)["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["max_request_headers_kb"] == DEFAULTS["max_metadata_kib"]
    assert manager["http_filters"][0]["typed_config"]["max_request_bytes"] == (DEFAULTS["max_message_mib"] << 20) + 5
    assert manager["stream_idle_timeout"] == f"{DEFAULTS['stream_idle_s']:.0f}s"
