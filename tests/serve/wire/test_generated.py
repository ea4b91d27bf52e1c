from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import torso.proto

HERE = Path(torso.proto.__file__).parent


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(folder / "generate.py"), "--check"], capture_output=True, text=True)


def test_the_committed_modules_are_what_the_proto_gives() -> None:
    done = check(HERE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_module_is_noticed_and_generated_anew(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))
    source = folder / "prediction.proto"
    source.write_text(source.read_text().replace("string backend = 9;", "string backend = 9;\n  string more = 10;"))
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


def changed(tmp_path: Path, old: str, new: str) -> Path:
    folder = Path(shutil.copytree(HERE, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))
    source = folder / "prediction.proto"
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))
    return folder


def test_the_wire_is_what_clients_rely_on() -> None:
    done = wire_check(HERE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_may_be_added(tmp_path: Path) -> None:
    done = wire_check(changed(tmp_path, "string backend = 9;", "string backend = 9;\n  string more = 10;"))
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
def test_what_breaks_clients_or_the_rules_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    done = wire_check(changed(tmp_path, old, new))
    assert done.returncode == 1
    assert re.search(said, done.stdout), done.stdout
