"""Find torso's packages: the folders that ``package-dir`` of pyproject.toml maps, and every sub-package in them."""

from __future__ import annotations

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

settings = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8"))
folders = settings["tool"]["setuptools"]["package-dir"]
setup(
    packages=[
        name
        for package, folder in folders.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ]
)
