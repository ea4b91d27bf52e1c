"""The generated modules and the wire: what protoc, grpcio-tools and buf say of the .proto files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import torso.proto

HERE = Path(torso.proto.__file__).resolve().parent
ROOT = HERE.parent


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(folder / "generate.py"), "--check"], capture_output=True, text=True)


@pytest.fixture(scope="module")
def checked() -> subprocess.CompletedProcess[str]:
    """The check of the committed modules; skips where grpcio-tools can be neither found nor installed."""
    done = check(HERE)
    if done.returncode == 2:
        pytest.skip(done.stderr.splitlines()[-1])
    return done


@pytest.fixture
def copied(checked: object, tmp_path: Path) -> Path:
    """A copy of the folder, whose scripts use the grpcio-tools of this one."""
    (tmp_path / "build").symlink_to(ROOT / "build")
    return Path(shutil.copytree(HERE, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_committed_modules_are_what_the_proto_gives(checked: subprocess.CompletedProcess[str]) -> None:
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_ranges_begin_where_the_modules_do() -> None:
    """A grpcio or protobuf older than those that the modules were generated for refuses them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = {
        need.name: part.version
        for need in map(Requirement, settings)
        for part in need.specifier
        if part.operator == ">="
    }
    protobuf = r"^# Protobuf Python Version: (\S+)$", "*_pb2.py"
    grpcio = r"^GRPC_GENERATED_VERSION = '(\S+)'$", "*_pb2_grpc.py"
    for name, (pattern, files) in {"protobuf": protobuf, "grpcio": grpcio}.items():
        texts = [path.read_text() for path in HERE.glob(files)]
        versions = {version for text in texts for version in re.findall(pattern, text, flags=re.MULTILINE)}
        assert {Version(version) for version in versions} == {Version(lowest[name])}, name
    assert lowest["grpcio"] == lowest["grpcio-health-checking"] == lowest["grpcio-reflection"]


def test_without_a_network_the_scripts_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(HERE, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for done in (check(folder), wire_check(folder)):
        assert done.returncode == 2
        assert "got no such folder; do `" in done.stderr
        assert "grpcio-tools==" in done.stderr
    assert [path.name for path in (tmp_path / "build").iterdir()] == []


def test_a_stale_module_is_noticed_and_generated_anew(copied: Path) -> None:
    folder = copied
    source = folder / "prediction.proto"
    source.write_text(source.read_text().replace("string backend = 9;", "string backend = 9;\n  string more = 12;"))
    (folder / "gone_pb2.py").write_text("")
    done = check(folder)
    assert done.returncode == 1
    stale = ["gone_pb2.py", "prediction_pb2.py", "prediction_pb2.pyi"]
    assert [line.split()[0] for line in done.stdout.splitlines()] == [f"proto/{name}" for name in stale]
    subprocess.run([sys.executable, str(folder / "generate.py")], check=True, capture_output=True)
    assert check(folder).returncode == 0
    assert "more" in (folder / "prediction_pb2.pyi").read_text()
    assert not (folder / "gone_pb2.py").exists()


def wire_check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(folder / "check.py")], capture_output=True, text=True)


def changed(folder: Path, old: str, new: str) -> Path:
    source = folder / "prediction.proto"
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))
    return folder


def test_the_wire_is_what_clients_rely_on(checked: object) -> None:
    done = wire_check(HERE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_may_be_added(copied: Path) -> None:
    done = wire_check(changed(copied, "string backend = 9;", "string backend = 9;\n  string more = 12;"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("optional int32 top_k = 5;", "optional string top_k = 5;", "top_k.*type"),
        ("optional int32 top_k = 5;", "optional int32 top_k = 6;", 'field "5"'),
        ("  rpc Act(ActRequest) returns (ActResponse);\n", "", 'RPC "Act"'),
        ("string backend = 9;", "string Backend = 9;", "lower_snake_case"),
    ],
)
def test_what_breaks_clients_or_the_rules_is_refused(copied: Path, old: str, new: str, said: str) -> None:
    done = wire_check(changed(copied, old, new))
    assert done.returncode == 1
    assert re.search(said, done.stdout), done.stdout
