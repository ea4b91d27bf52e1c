"""The wheel holds everything, and works in an environment that has never seen the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "torso": "base",
    **{f"torso.{name}": name for name in ["agents", "cli", "envs", "insight", "nets", "playground", "proto", "serve"]},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git would carry, so that the repository stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in ["pyproject.toml", "setup.py", "README.md", "LICENSE"]:
        (source / name).write_bytes((ROOT / name).read_bytes())
    for folder in PACKAGES.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_everything(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in PACKAGES.items():
        place = package.replace(".", "/")
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".proto", ".pyi", ".typed", ".html", ".css", ".js", ".svg", ".json", ".onnx"}:
                inside = path.relative_to(ROOT / folder).as_posix()
                assert f"{place}/{inside}" in held, f"{folder}/{inside} is missing from the wheel"
    assert "torso/py.typed" in held
    assert "torso/proto/prediction.proto" in held
    assert "torso/nets/specs/inputs.py" in held
    assert "torso/playground/models/digits/weights.safetensors" in held


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    for name in zipfile.ZipFile(wheel).namelist():
        assert name.startswith(("torso/", "torso-")), f"{name} would be installed outside the package torso"


def test_every_folder_is_mapped_and_every_folder_with_code_is_a_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == PACKAGES
    for folder in PACKAGES.values():
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path} is in no package, and so in no wheel"


def test_type_checkers_see_every_package() -> None:
    """`.dev/torso` is what mypy reads: a folder of links, one for each package and each file of base."""
    links = {path.name: path.resolve() for path in (ROOT / ".dev/torso").iterdir()}
    wanted = {name: ROOT / name for name in PACKAGES.values() if name != "base"}
    wanted |= {path.name: path for path in (ROOT / "base").iterdir() if path.suffix in {".py", ".typed"}}
    assert links == wanted


def test_the_wheel_runs_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    # The dependencies come from here, by path: a .pth line adds a folder without running that folder's own .pth files,
    # so the editable torso of the development environment stays out of sight.
    site = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    for folder in ("agents", "envs", "insight", "nets", "proto", "serve"):  # a user's own folders shadow nothing
        (elsewhere / folder).mkdir(parents=True)
        (elsewhere / folder / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    code = (
        "import torso, torso.agents, torso.envs, torso.nets, torso.serve, torso.proto.prediction_pb2 as pb\n"
        f"assert torso.__file__.startswith({str(site)!r}), torso.__file__\n"
        "from torso.agents import DQN\n"
        "agent = DQN('CartPole-v1', seed=0).learn(total_steps=100)\n"
        "print(agent.predict([0.0, 0.0, 0.0, 0.0]) in (0, 1))\n"
    )
    done = subprocess.run([str(python), "-c", code], cwd=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "True", done.stdout + done.stderr
    version = subprocess.run(
        [str(python.with_name("torso")), "--version"], cwd=elsewhere, capture_output=True, text=True, timeout=120
    )
    assert version.stdout.strip().endswith(tomllib_version()), version.stdout + version.stderr


def tomllib_version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / "base" / "__init__.py").read_text(), namespace)
    return namespace["__version__"]
