"""Deployment files: linted, and checked against the server's real options; no container engine is needed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from torso.cli.commands.serve import ServeOptions
from torso.cli.parsing import parse_options
from torso.errors import ServerError
from torso.serve.server.auth import check_bind

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def lint(tool: str, *arguments: str | Path) -> None:
    program = shutil.which(tool, path=sysconfig.get_path("scripts"))
    assert program is not None, f"{tool} is not installed: make test installs it"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_pass_their_linters() -> None:
    lint("hadolint", DEPLOY / "Dockerfile")
    lint("yamllint", "--strict", "-c", DEPLOY / ".yamllint.yaml", DEPLOY, ROOT / "proto" / "buf.yaml")
    lint("kubernetes-validate", "--strict", *(DEPLOY / "kubernetes").glob("*.yaml"))


def test_the_linter_refuses_what_is_no_manifest(tmp_path: Path) -> None:
    text = (DEPLOY / "kubernetes" / "torso.yaml").read_text()
    assert "readinessProbe:" in text
    (tmp_path / "broken.yaml").write_text(text.replace("readinessProbe:", "readynessProbe:"))
    with pytest.raises(AssertionError, match="readynessProbe"):
        lint("kubernetes-validate", "--strict", tmp_path / "broken.yaml")


def dockerfile() -> dict[str, str]:
    """The Dockerfile's last instruction of each kind, its lines joined."""
    joined = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in joined.splitlines() if re.match("[A-Z]+ ", line)}


def entry() -> list[str]:
    words: list[str] = ast.literal_eval(dockerfile()["ENTRYPOINT"])
    assert words[:2] == ["torso", "serve"]
    return words[2:]


def parsed(arguments: list[str]) -> ServeOptions:
    options = parse_options(ServeOptions, arguments, "serve")
    assert options is not None
    return options


def documents() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes" / "torso.yaml").read_text())}


def sides() -> dict[str, list[str]]:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    return {
        "image": ast.literal_eval(dockerfile()["CMD"]),
        "compose": compose["services"]["torso"]["command"],
        "kubernetes": pod["containers"][0]["args"],
    }


@pytest.mark.parametrize("side", ["image", "compose", "kubernetes"])
def test_the_server_takes_the_arguments_and_may_bind(side: str) -> None:
    config = parsed([*entry(), *sides()[side]])
    assert (config.port, config.ops_port) == (8500, 8501)
    check_bind(config)
    with pytest.raises(ServerError):
        check_bind(replace(config, tls_cert=None, tls_key=None, token_file=None, allow_plaintext=False))


def test_only_the_own_machine_reaches_what_compose_opens() -> None:
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_pod_may_take_as_long_to_end_as_the_server() -> None:
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    config = parsed([*entry(), *sides()["kubernetes"]])
    hook_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > hook_s + config.drain_s + config.finish_s
    grace = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["torso"]["stop_grace_period"]
    config = parsed([*entry(), *sides()["compose"]])
    assert int(grace.removesuffix("s")) > config.drain_s + config.finish_s


def test_the_pod_is_read_only_but_for_its_cache_and_has_the_ports_that_are_named() -> None:
    container = documents()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/cache", "/tmp"}
    assert parsed([*entry(), *sides()["kubernetes"]]).cache_dir == Path("/cache")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "ops": 8501}
    assert documents()["Service"]["spec"]["clusterIP"] == "None"


def test_the_image_holds_every_package_that_the_server_needs() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert copied == packages
    assert all(f"!{name}\n" in ignored for name in packages)


def test_prometheus_reads_the_ops_port() -> None:
    targets = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]
    assert targets == {"targets": ["torso:8501"]}
