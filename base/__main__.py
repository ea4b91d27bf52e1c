"""Entry point of ``python -m torso``, the same as ``torso``."""

from runpy import run_module

run_module("torso.cli", run_name="__main__", alter_sys=True)
