"""Short siege by harmless attackers, and the messages that the others send."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from torso.proto import oip_pb2
from torso.proto import prediction_pb2 as pb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIEGE = BENCHMARKS / "siege.py"


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("siege_messages", BENCHMARKS / "attackers" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unzipped(message: bytes) -> bytes:
    assert message[0] == 1  # compressed
    assert int.from_bytes(message[1:5], "big") == len(message) - 5
    return gzip.decompress(message[5:])


def test_a_siege_by_harmless_attackers_hurts_nobody(tmp_path: Path) -> None:
    names = ["idle-strangers", "goaway-text"]
    command = [sys.executable, str(SIEGE), "--seconds", "2", "--calm-s", "1", "--out", str(tmp_path), "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: of goals that are times, on a busy machine
    got = json.loads((tmp_path / "siege.json").read_text())
    assert (tmp_path / "siege.md").read_text().strip() == done.stdout.strip()
    assert got["siege"]["calls"] == 2 * got["calm"]["calls"] == 400
    for phase in ("calm", "siege"):
        assert got[phase]["answered_share"] == 1.0, got[phase]["not_answered"]
        assert got[phase]["p50_ms"] <= got[phase]["p99_ms"] <= got[phase]["max_ms"]
        assert set(got[phase]["readyz"]) == {"200"}
    assert [attacker["name"] for attacker in got["attackers"]] == names
    assert got["attackers"][0]["attempts"] >= 150
    assert got["attackers"][1]["answers"]["UNAUTHENTICATED"] >= 40
    assert got["server"] == "served to the end"
    assert got["end"]["exit_code"] == 0
    assert got["log"]["lines"] >= 1
    assert got["log"]["forged_lines"] == 0
    assert got["memory_mb"]["calm"] > 50
    assert list(got["goals"]) == ["answered", "p99 ratio", "memory growth", "SIGTERM", "forged log lines"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_attacker_attacks(tmp_path: Path) -> None:
    command = [sys.executable, str(SIEGE), "--each", "--seconds", "2", "--calm-s", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: of goals, which are not what this tests
    got = json.loads((tmp_path / "siege_each.json").read_text())
    names = [name for name, figures in got.items() if isinstance(figures, dict) and "attackers" in figures]
    assert len(names) >= 12
    for name in names:
        [attacker] = got[name]["attackers"]
        assert attacker["name"] == name
        assert attacker["attempts"] > 0, name
        assert "no connection" not in attacker["answers"] or name == "bad-path", attacker


def test_every_attacker_says_what_it_does() -> None:
    done = subprocess.run(
        [sys.executable, str(SIEGE), "--list"], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) >= 12
    assert all(len(line.split()) > 5 for line in lines)


def test_unknown_attackers_are_refused() -> None:
    done = subprocess.run([sys.executable, str(SIEGE), "--only", "nobody"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "nobody" in done.stderr


def test_a_pixel_bomb_is_small_and_opens_large(messages: ModuleType) -> None:
    bomb = messages.pixel_bomb()
    assert len(bomb) < 4000
    with Image.open(io.BytesIO(bomb)) as image:
        assert image.size == (4096, 4096)
    request = pb.ClassifyRequest.FromString(messages.images_request("digits", [bomb] * 3))
    assert list(request.images.encoded) == [bomb] * 3


def test_empty_inputs_are_as_many_as_a_message_holds(messages: ModuleType) -> None:
    zipped = messages.empty_inputs("digits", 100_001)
    data = unzipped(zipped)
    assert len(zipped) < 1000
    assert len(data) in (100_000, 100_001)
    request = oip_pb2.ModelInferRequest.FromString(data)
    assert request.model_name == "digits"
    assert len(request.inputs) == (100_001 - 8) // 2
    assert request.inputs[-1] == oip_pb2.ModelInferRequest.InferInputTensor()


def test_the_full_size_inflates_to_a_thousand_times_itself(messages: ModuleType) -> None:
    assert len(messages.empty_inputs("digits", 64 << 20)) < 70_000


@pytest.mark.parametrize("entries", [0, 1, 127, 128, 3_000_000])
def test_a_long_shape_has_no_data(messages: ModuleType, entries: int) -> None:
    classify = pb.ClassifyRequest.FromString(unzipped(messages.long_shape("Classify", "m", entries)))
    act = pb.ActRequest.FromString(unzipped(messages.long_shape("Act", "m", entries)))
    infer = oip_pb2.ModelInferRequest.FromString(unzipped(messages.long_shape("ModelInfer", "m", entries)))
    assert (classify.model, act.model, infer.model_name) == ("m", "m", "m")
    assert not classify.tensor.data
    assert not act.observations.data
    for shape in (classify.tensor.shape, act.observations.shape, infer.inputs[0].shape):
        assert len(shape) == entries
        assert not any(shape)


def test_an_unfinished_message_lacks_one_byte(messages: ModuleType) -> None:
    message = messages.unfinished_message(1000)
    assert message[:5] == b"\0\0\0\x03\xe8"
    assert len(message) == 5 + 999


def test_a_forged_line_would_begin_a_line_of_the_log(messages: ModuleType) -> None:
    assert messages.FORGED.encode() in messages.forged_debug()[8:].splitlines()
