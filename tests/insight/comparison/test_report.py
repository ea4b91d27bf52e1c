"""Reports: figures by hand, Atari beside its protocol, what is said of few seeds, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torso.errors import RunError
from torso.insight.comparison.report import write_report
from torso.insight.comparison.run_records import RunRecord, group_runs
from torso.insight.comparison.scores import aggregates, improvements
from torso.insight.metrics.statistics import interquartile_mean

DQN2015 = {"protocol": "dqn2015"}


def ended(
    best: float,
    last: float,
    seed: int = 0,
    *,
    algorithm: str = "dqn",
    env_id: str = "CartPole-v1",
    env_kwargs: dict[str, Any] | None = None,
    total_steps: int = 100,
    version: str = "0.1.0",
) -> RunRecord:
    return RunRecord(
        path=Path(f"runs/{env_id}-{algorithm}-{seed}"),
        env_id=env_id,
        env_kwargs=env_kwargs or {},
        algorithm=algorithm,
        settings={"evaluation_episodes": 5},
        seed=seed,
        lines=[{"step": 50, "evaluation_return": best}, {"step": total_steps, "evaluation_return": last}],
        summary={"total_steps": total_steps, "best_step": 50, "score": {"episodes": 20, "mean_return": best}},
        versions={"torso": version, "numpy": "2.0"},
    )


def several(best: list[float], last: list[float], **others: Any) -> list[RunRecord]:
    return [ended(*scores, seed, **others) for seed, scores in enumerate(zip(best, last, strict=True))]


def table(text: str, title: str) -> list[dict[str, str]]:
    """Rows of the first table under a title, by the names of its columns."""
    lines = iter(text.partition(f"## {title}\n")[2].splitlines())
    first = dropwhile(lambda line: not line.startswith("|"), lines)
    rows = [line.strip("| ").split(" | ") for line in takewhile(lambda line: line.startswith("|"), first)]
    header, _, *cells = rows
    return [dict(zip(header, each, strict=True)) for each in cells]


def test_a_row_has_the_scores_over_seeds(tmp_path: Path) -> None:
    best, last = [10.0, 20.0, 30.0, 40.0, 90.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    found = write_report(several(best, last), tmp_path)
    [row] = found["rows"]
    assert (row["env"], row["label"], row["seeds"], row["total_steps"]) == (
        "CartPole-v1",
        "dqn",
        [*range(5)],
        [100] * 5,
    )
    assert row["best"]["scores"] == tuple(best)
    assert (row["best"]["mean"], row["best"]["iqm"]["value"]) == (38.0, 30.0)
    assert row["best"]["std"] == pytest.approx(np.std(best))
    assert 10.0 <= row["best"]["iqm"]["low"] < 30.0 < row["best"]["iqm"]["high"] <= 90.0
    assert (row["last"]["mean"], row["last"]["iqm"]["value"]) == (3.0, 3.0)
    text = (tmp_path / "report.md").read_text()
    [line] = table(text, "Scores")
    assert (line["env"], line["algorithm"], line["seeds"], line["env steps"]) == ("CartPole-v1", "dqn", "5", "100")
    assert line["best network: mean ± deviation"] == "38 ± 27.9"
    assert line["best network: IQM [95% interval]"].startswith("30 [")
    assert line["last network: mean ± deviation"] == "3 ± 1.41"
    assert "mean return of 20 fresh greedy episodes" in text
    assert "mean return of the 5 greedy episodes of the last evaluation" in text
    assert [each["run"] for each in table(text, "Runs")] == [f"runs/CartPole-v1-dqn-{seed}" for seed in range(5)]


def test_few_seeds_are_said_to_say_little(tmp_path: Path) -> None:
    write_report([*several([1, 2, 3], [1, 2, 3]), ended(7, 6, algorithm="c51")], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# 4 training runs\n\n**1 to 3 seeds a row. Intervals of few seeds say little**")
    _, alone = table(text, "Scores")
    assert alone["best network: mean ± deviation"] == alone["best network: IQM [95% interval]"] == "7"
    assert "at least 2 seeds each; here there are none" in text


def test_a_seed_of_the_bootstrap_repeats_a_report(tmp_path: Path) -> None:
    runs = several([1, 2, 4, 8], [1, 2, 4, 8]) + several([2, 3, 5, 7], [2, 3, 5, 7], algorithm="c51")
    first, again, other = (write_report(runs, tmp_path / str(index), seed=seed) for index, seed in enumerate((0, 0, 1)))
    del first["files"], again["files"], other["files"]
    assert first == again
    assert (tmp_path / "0" / "report.md").read_text() == (tmp_path / "1" / "report.md").read_text()
    assert first != other


def test_improvement_of_pairs_and_over_the_envs_that_they_share() -> None:
    runs = [
        *several([1.0, 3.0], [5.0, 5.0]),
        *several([0.0, 1.0], [5.0, 5.0], algorithm="c51"),
        *several([9.0, 9.0], [0.0, 0.0], env_id="Acrobot-v1", algorithm="c51"),  # in the other order
        *several([1.0, 2.0], [1.0, 1.0], env_id="Acrobot-v1"),
        ended(1.0, 1.0, algorithm="iqn"),  # one seed
    ]
    found = improvements(group_runs(runs), np.random.default_rng(0))
    assert [(each.envs, each.first, each.second, each.best.value, each.last.value) for each in found] == [
        (("CartPole-v1",), "dqn", "c51", 0.875, 0.5),
        (("Acrobot-v1",), "dqn", "c51", 0.0, 1.0),
        (("CartPole-v1", "Acrobot-v1"), "dqn", "c51", 0.4375, 0.75),
    ]
    assert found[0].last.low == found[0].last.high == 0.5  # all tie


def test_atari_is_normalised_and_stands_beside_its_protocol(tmp_path: Path) -> None:
    runs = [
        *several([14.6, 14.6], [-20.7, -20.7], env_id="ALE/Pong-v5", env_kwargs=DQN2015),
        *several([30.5, 30.5], [1.7, 1.7], env_id="ALE/Breakout-v5"),
        *several([1.0, 2.0], [1.0, 2.0]),
    ]
    found = write_report(runs, tmp_path)
    assert [row["best"]["human_normalized_mean"] for row in found["rows"]] == [1.0, 1.0, None]
    assert [row["last"]["human_normalized_mean"] for row in found["rows"]] == [0.0, 0.0, None]
    text = (tmp_path / "report.md").read_text()
    pong, breakout = table(text, "Atari: human-normalised scores")[:2]
    assert (pong["game"], pong["best network"], pong["last network"]) == ("ALE/Pong-v5", "1.00", "0.00")
    assert pong["protocol"] == "protocol dqn2015, no sticky actions, up to 30 no-ops, 4 frames a step"
    assert pong["comparable"] == "with published scores"
    assert "sticky actions of probability 0.25" in breakout["protocol"]
    assert breakout["comparable"].startswith("not comparable")
    assert [row["env"] for row in table(text, "Scores")] == [
        "ALE/Pong-v5 (protocol dqn2015, no sticky actions)",
        "ALE/Breakout-v5 (sticky actions of probability 0.25)",
        "CartPole-v1",
    ]
    best, last = found["games"]
    assert (best["num_games"], best["iqm"]["value"], best["optimality_gap"]["value"]) == (2, 1.0, 0.0)
    assert (last["median"]["value"], last["optimality_gap"]["value"]) == (0.0, 1.0)


def test_no_report_of_other_envs_speaks_of_atari(tmp_path: Path) -> None:
    found = write_report(several([1.0], [1.0]), tmp_path)
    assert "Atari" not in (tmp_path / "report.md").read_text()
    assert found["games"] == []


def test_games_are_aggregated_for_who_played_all_of_them() -> None:
    pong = several([0.0, 5.0], [0.0, 1.0], env_id="ALE/Pong-v5")
    breakout = several([10.0, 20.0], [3.0, 4.0], env_id="ALE/Breakout-v5")
    one_game = several([1.0, 2.0], [1.0, 2.0], env_id="ALE/Pong-v5", algorithm="c51")
    found = aggregates(group_runs([*pong, *one_game, *breakout]), np.random.default_rng(0))
    assert [(each.label, each.network) for each in found] == [("dqn", "best"), ("dqn", "last")]
    normalised = [(np.array([0.0, 5.0]) + 20.7) / 35.3, (np.array([10.0, 20.0]) - 1.7) / 28.8]
    assert found[0].iqm.value == pytest.approx(float(interquartile_mean(normalised)))
    assert aggregates(group_runs(pong), np.random.default_rng(0)) == []


def test_versions_that_differ_are_counted(tmp_path: Path) -> None:
    found = write_report([ended(1, 1), ended(2, 2, 1), ended(3, 3, 2, version="0.2.0")], tmp_path)
    assert found["versions"] == {"torso": {"0.1.0": 2, "0.2.0": 1}, "numpy": {"2.0": 3}}
    versions = table((tmp_path / "report.md").read_text(), "Versions")
    assert versions[0] == {"package": "torso", "version": "0.1.0 (2 runs), 0.2.0 (1 run)"}
    assert versions[1] == {"package": "numpy", "version": "2.0"}


def test_pictures_are_drawn_and_named_in_the_text(tmp_path: Path, pixels: Callable[[Path], Any]) -> None:
    write_report([*several([1.0, 1.0], [1.0, 1.0]), ended(1.0, 1.0, algorithm="c51")], tmp_path)  # all equal
    text = (tmp_path / "report.md").read_text()
    for name in ("profiles.png", "curves.png"):
        assert f"]({name})" in text
        assert (pixels(tmp_path / name) < 0.5).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "profiles.png", "report.md"]


def test_runs_that_share_no_step_have_scores_and_no_curve(tmp_path: Path) -> None:
    """With several envs, runs of one length end some steps apart; each may have had one evaluation."""
    apart = [
        RunRecord(
            path=Path(f"runs/{seed}"),
            env_id="CartPole-v1",
            algorithm="dqn",
            settings={"evaluation_episodes": 5},
            seed=seed,
            lines=[{"step": 100 + seed, "evaluation_return": 7.0}],
            summary={"total_steps": 100 + seed, "score": {"episodes": 20, "mean_return": 8.0}},
            versions={},
        )
        for seed in (1, 2)
    ]
    write_report(apart, tmp_path / "all")
    text = (tmp_path / "all" / "report.md").read_text()
    assert table(text, "Scores")[0]["env steps"] == "101 to 102"
    assert "Without a curve: CartPole-v1, dqn. " in text
    assert "curves.png" not in text
    assert not (tmp_path / "all" / "curves.png").exists()
    write_report([*apart, ended(1.0, 1.0, algorithm="c51")], tmp_path / "some")
    text = (tmp_path / "some" / "report.md").read_text()
    assert "Without a curve: CartPole-v1, dqn. " in text
    assert "](curves.png)" in text


def test_nothing_is_written_of_runs_that_have_not_ended(tmp_path: Path) -> None:
    going = RunRecord(
        path=Path("runs/going"),
        env_id="CartPole-v1",
        algorithm="dqn",
        settings={"evaluation_episodes": 5},
        seed=9,
        lines=[{"step": 1, "evaluation_return": 1.0}],
        summary=None,
        versions={},
    )
    with pytest.raises(RunError, match="runs/going must have ended"):
        write_report([ended(1.0, 1.0), going], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bar_in_a_name_breaks_no_table(tmp_path: Path) -> None:
    write_report([ended(1.0, 1.0, env_id="mine:A|B-v0")], tmp_path)
    assert "| mine:A\\|B-v0 |" in (tmp_path / "report.md").read_text()
