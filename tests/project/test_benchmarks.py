"""The regret benchmark: noise, incumbents, resumption, the peers' protocol, and the arithmetic of its tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import instances, live, regret, standings
from benchmarks.contenders import Contenders
from hpo_core.space.parameters import Boolean, Choice, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

sys.path.append(str(Path(instances.__file__).parent / "peers"))
import spaces

SPACE = SearchSpace(
    {
        "kind": Choice(choices=["a", "b"]),
        "size": Ordinal(choices=[16, 64, 256]),
        "flag": Boolean(),
        "rate": Float(low=1e-4, high=1.0, log=True),
        "depth": Int(low=1, high=9, when={"kind": ["b"]}),
    }
)


@pytest.mark.parametrize("task", ["wine_svm", "diabetes_knn"])
def test_live_losses_are_noisy_but_repeatable(task: str) -> None:
    instance = instances.load(f"live/{task}")
    config = instance.space.decode(np.full(instance.space.dimensions, 0.4))
    first, again, other = (instance.loss(config, noise) for noise in (1, 1, 2))
    assert first == again != other
    assert instance.regret(instance.best) == 0.0 and instance.regret(instance.reference) == 1.0


@pytest.mark.parametrize("name", live.TASKS)
def test_every_live_task_trains(name: str) -> None:
    task = live.TASKS[name]
    config = task.space.decode(np.full(task.space.dimensions, 0.3))
    assert 0.0 <= live.observed_loss(task, config, 0) < live.WORST[task.loss]
    assert 2 <= task.space.dimensions <= 8
    known = live.references()[name]
    assert known["best"] < known["reference"]


def test_regret_of_a_noisy_incumbent_is_that_of_its_expected_loss() -> None:
    # The luckiest trial is the incumbent, whatever it is worth.
    instance = instances.Instance("live/x", SPACE, lambda config, noise: float(-noise), 0.0, 2.0, lambda config: 1.0)
    with Contenders() as contenders:
        line = regret.study(contenders, "random", instance, 0, 5, 2)
    assert line["regret"] == [0.5] * 5


def _run(out: Path, seeds: int) -> list[dict[str, Any]]:
    args = argparse.Namespace(
        names=["random", "bayesian:start=3"], out=out, instances=["live/wine_svm"], seeds=seeds, first_seed=0
    )
    args.trials, args.batch, args.python = 6, 4, None
    regret.run(args)
    return standings.read([out])


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "regret.jsonl"
    first = _run(out, 1)
    assert [line["strategy"] for line in first] == ["random", "bayesian:start=3"]
    out.write_text(out.read_text() + '{"strategy": "rand')
    assert _run(out, 1) == first
    out.write_text(out.read_text() + "\n")
    both = _run(out, 2)
    assert both[:2] == first and [line["seed"] for line in both] == [0, 0, 1, 1]


def test_a_peer_gets_indices_of_ordered_lists_and_answers_with_active_values_alone() -> None:
    space: Any = json.loads(SPACE.to_json())["parameters"]
    proposed = {"kind": "a", "size": 1, "flag": np.True_, "rate": 1.0000000001, "depth": 3}
    config = spaces.config_of(space, proposed)
    assert config == {"kind": "a", "size": 64, "flag": True, "rate": 1.0}
    assert SPACE.validated(config) == config
    assert spaces.config_of(space, proposed | {"kind": "b"})["depth"] == 3
    assert spaces.bounds(space["size"]) == (0, 2) and spaces.options(space["size"]) is None


PEER = """
class Peer:
    def __init__(self, name, space, seed, trials):
        print("said to the screen")
        self.told = []
    def ask(self, n):
        return [{"kind": "a", "size": 16, "flag": False, "rate": 0.5}] * n
    def tell(self, losses):
        self.told += losses
"""


def test_a_peer_speaks_by_lines_and_its_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_fake.py").write_text(PEER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Contenders(sys.executable) as contenders:
        for seed in (0, 1):
            peer = contenders.open("peer:fake", SPACE, seed, 10)
            assert [SPACE.validated(config)["size"] for config in peer.ask(2)] == [16, 16]
            peer.tell([1.0, 2.0])
            assert peer.seconds() > 0
        with pytest.raises(regret.PeerEnded):
            peer.history([])  # it has no such call


def _results(tmp_path: Path, **levels: list[float]) -> argparse.Namespace:
    out = tmp_path / "results.jsonl"
    with out.open("w") as file:
        for strategy, by_seed in levels.items():
            for seed, level in enumerate(by_seed):
                for name in ("live/wine_svm", "live/iris_mlp"):
                    line = {"strategy": strategy, "instance": name, "seed": seed, "batch": 1, "trials": 100}
                    file.write(json.dumps(line | {"seconds": 1.0, "regret": [level] * 100}) + "\n")
    args = argparse.Namespace(results=[out], strategies=None, group="live", half="all", batch=1)
    args.ours, args.families, args.at = "a", True, [20, 50, 100]
    return args


def test_tables_compare_shared_studies_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = _results(tmp_path, a=[0.1, 0.3, 9.0], b=[0.4, 0.4])
    standings.table(args)
    table = capsys.readouterr().out
    assert "4 studies: 2 instances, seeds 0, 1" in table and "9.0" not in table
    assert "0.200 ±0.000" in table and "1.00 1.00 1.00" in table
    standings.versus(args)
    row = next(line for line in capsys.readouterr().out.splitlines() if "| b" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["4", "20", "0.200", "0.400", "-0.200 ±0.000", "0.50"]


def test_a_new_best_of_a_live_task_is_what_all_are_measured_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standings.table(_results(tmp_path, a=[-1.0], b=[0.0]))
    table = capsys.readouterr().out
    assert "0.000 ±0.000" in table and "0.500 ±0.000" in table


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    args = _results(tmp_path, a=[0.1], b=[0.4])
    args.png = tmp_path / "images" / "regret.png"
    standings.plot(args)
    assert args.png.read_bytes().startswith(b"\x89PNG")
