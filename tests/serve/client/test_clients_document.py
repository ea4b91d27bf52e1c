"""Run the code of docs/clients.md: Python, grpcurl commands, the Node client."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from torso.cli import main
from torso.serve import Client

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
NODE = ROOT / "docs" / "examples" / "node"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh"]
ADDRESS = "127.0.0.1:8500"
COPIES_PROTOS = next(text for text in PYTHON if "shutil.copy" in text)


def commands(program: str) -> list[list[str]]:
    """The document's commands of a program, as a shell would split them."""
    words = [word for text in SHELL for word in shlex.split(re.sub(r"\n(?=\w)", " ; ", text.strip()) + " ; ")]
    found: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command[:1] == [program]]


def test_the_python_runs(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    outputs = []
    for code in PYTHON:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code.replace(ADDRESS, served.address), "clients.md", "exec"), namespace)
        outputs.append(said.getvalue().splitlines())
    first, refused, retried, many, gathered, played, copied = outputs
    assert "('digits', 'classifier')" in first[0]
    assert first[1].endswith("(3, 2) 1")
    assert first[2] == "(1,) (1, 2)"
    assert refused == ["INVALID_ARGUMENT ['tensor.shape']"]
    assert retried == ["True"]
    assert many == ["(1000, 1)", "32", "32", "32", "4"]
    assert gathered == ["8", "(100, 1)", "(100, 1)"]
    assert played == ["(2,)", "4"]
    assert copied == []
    assert (tmp_path / "protos" / "google" / "rpc" / "status.proto").is_file()


# -- grpcurl: no binary is needed to know whether its commands are right -----------------------------------------------


@pytest.fixture(scope="module")
def reflected(served: Any) -> Iterator[tuple[DescriptorPool, grpc.Channel]]:
    """Descriptors as the server's reflection gives them, which is where grpcurl has them from."""
    with grpc.insecure_channel(served.address) as channel:
        yield DescriptorPool(ProtoReflectionDescriptorDatabase(channel)), channel


def grpcurl() -> argparse.ArgumentParser:
    """The part of grpcurl's command line that the document uses."""
    parser = argparse.ArgumentParser(prefix_chars="-", allow_abbrev=False)
    parser.add_argument("-plaintext", action="store_true")
    parser.add_argument("-max-time", type=float)
    parser.add_argument("-d", default="")
    parser.add_argument("address")
    parser.add_argument("what")
    parser.add_argument("symbol", nargs="?")
    return parser


def json_values(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].strip()


@pytest.mark.parametrize("command", commands("grpcurl"), ids=lambda command: f"{command[-2]}-{command[-1]}")
def test_grpcurl_commands(command: list[str], reflected: tuple[DescriptorPool, grpc.Channel]) -> None:
    pool, channel = reflected
    asked = grpcurl().parse_args(command[1:])
    assert asked.plaintext
    assert asked.address == ADDRESS
    if asked.what == "list":
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "torso.v1.PredictionService" in database.get_services()
        return
    if asked.what == "describe":
        assert pool.FindMessageTypeByName(asked.symbol).fields
        return
    service, method = asked.what.split("/")
    found = pool.FindServiceByName(service).methods_by_name[method]
    request_class = message_factory.GetMessageClass(found.input_type)
    response_class = message_factory.GetMessageClass(found.output_type)
    values = list(json_values(asked.d)) or [{}]
    requests = [json_format.ParseDict(value, request_class(), descriptor_pool=pool) for value in values]
    if found.client_streaming:
        made = channel.stream_stream(f"/{service}/{method}", request_class.SerializeToString, response_class.FromString)
        answers = list(made(iter(requests), timeout=30))
        assert len(answers) == len(requests)
        assert not any(answer.HasField("error") for answer in answers)
    else:
        [request] = requests
        made_once = channel.unary_unary(
            f"/{service}/{method}", request_class.SerializeToString, response_class.FromString
        )
        assert made_once(request, timeout=30).ByteSize() > 0


def test_the_documents_bytes_are_the_documents_numbers() -> None:
    code = next(text for text in re.findall(r"`python3 -c '(.*?)'`", DOCUMENT))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    assert DOCUMENT.count(said.getvalue().strip()) == 3


def test_bench_serve_commands_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """As far as that nobody answers: what is wrong with the arguments would be said first."""
    found = commands("torso")
    assert len(found) == 2
    for command in found:
        assert main([*command[1:], "--address", "127.0.0.1:1"]) == 2
        assert "no answer from 127.0.0.1:1" in capsys.readouterr().err


# -- Node --------------------------------------------------------------------------------------------------------------


def install(folder: Path) -> None:
    """Copy the example, and its protos as the document does; install what it needs, or skip where that cannot be."""
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("no node and npm here")
    shutil.copytree(NODE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    with contextlib.chdir(folder):
        exec(COPIES_PROTOS, {})
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install took more than two minutes")
    if done.returncode:
        pytest.skip(f"npm cannot install the packages: {done.stderr.strip().splitlines()[-1:]}")


def test_the_node_client_gets_the_same_answers(served: Any, tmp_path: Path) -> None:
    install(tmp_path)
    done = subprocess.run(
        ["node", "client.js", served.address], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    listed, labelled, acted, streamed, refused = map(json.loads, done.stdout.splitlines())
    scans = (np.arange(128) % 17).astype(np.uint8).reshape(2, 8, 8)
    observations = np.array([[0.1, 0, 0.02, 0], [-1, -2.5, 0.1, 3]], np.float32)
    with Client(served.address) as client:
        expected = client.act("cartpole", observations)
        labels = client.classify("digits", scans, top_k=2).labels
        steps = [client.act("cartpole", [step, 0, 0, 0]).actions.item() for step in range(3)]
    assert ["digits", "MODEL_KIND_CLASSIFIER"] in listed["models"]
    assert labelled["labels"] == [list(row) for row in labels]
    assert acted["actions"] == expected.actions.tolist()
    np.testing.assert_allclose(acted["values"], expected.values.ravel(), rtol=1e-4, atol=1e-5)
    assert streamed["streamed"] == steps
    assert refused["code"] == "FAILED_PRECONDITION"
    assert "is a classifier" in refused["message"]


def test_the_node_example_pins_what_it_needs() -> None:
    package = json.loads((NODE / "package.json").read_text(encoding="utf-8"))
    assert set(package["dependencies"]) == {"@grpc/grpc-js", "@grpc/proto-loader"}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
