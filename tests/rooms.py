"""The rooms of the house and the order of their imports: the one table that the tests hold and CONTRIBUTING.md shows.

A folder may import itself, base, and the folders that ``FOLDERS`` names. Within a folder the sub-packages and loose
files stand in tiers, lowest first: each may import what stands in an earlier tier, and none of its own.
"""

from __future__ import annotations

FOLDERS: dict[str, set[str]] = {
    "base": set(),
    "nets": set(),
    "envs": set(),
    "insight": {"nets", "envs"},
    "agents": {"nets", "envs", "insight"},
    "proto": set(),
    "serve": {"nets", "proto"},
    "playground": {"nets", "envs", "insight", "agents", "proto", "serve"},
    "cli": {"nets", "envs", "insight", "agents", "proto", "serve", "playground"},
}

TIERS: dict[str, list[set[str]]] = {
    "nets": [{"specs"}, {"modules"}, {"models"}, {"prediction"}],
    "envs": [{"vector", "datasets"}, {"games"}],
    "insight": [{"units"}, {"pictures"}, {"metrics"}, {"comparison", "inspect"}],
    "agents": [
        {"protocols"},
        {"optim"},
        {"replay", "runs"},
        {"value_based", "acting", "supervised"},
        {"estimators", "presets"},
        {"training"},
    ],
    "serve": [
        {"config", "event_loop", "wire", "worker_threads"},
        {"backends", "client", "observability"},
        {"inference", "load_test"},
        {"models"},
        {"services"},
        {"server"},
        {"workers"},
        {"run"},
    ],
    "playground": [
        {"config", "messages", "served", "sessions"},
        {"draw", "plane", "play"},
        {"train"},
        {"page"},
        {"run"},
    ],
    "cli": [{"arguments", "imports", "terminal"}, {"parsing"}, {"models", "worlds", "runs"}, {"commands"}, {"entry"}],
}

# Distributions that belong to some folders only, and rooms that do without a heavy one.
THIRD_PARTY: dict[str, set[str]] = {
    "grpc": {"proto", "serve"},
    "onnxruntime": {"serve"},
    "gymnasium": {"envs", "agents"},
    "ale_py": {"envs"},
}
WITHOUT: dict[str, set[str]] = {
    "torch": {"base", "envs", "nets/specs", "serve/client", "serve/wire", "serve/observability", "serve/load_test"},
    "onnxruntime": {
        f"serve/{room}" for room in ("client", "wire", "observability", "inference", "load_test", "services")
    },
}

# Two files of one name in one folder where they are each other's counterpart.
TWINS: dict[str, set[str]] = {
    "nets": {"torsos", "heads", "network"},  # a specification in specs, its module in modules
    "agents": {"config", "learner"},  # of value_based and of supervised
}
LARGEST_ROOM, MOST_LOOSE = 14, 8  # files, ``__init__.py`` aside
