from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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
