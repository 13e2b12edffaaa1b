"""Strategies of the user's own: how they are found, what is said of their mistakes, and who can read their studies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo_core import Float, History, SearchSpace, TrialState
from hpo_core.base.errors import InputError
from hpo_core.history.trial import Trial
from hpo_core.strategies import own
from hpo_core.strategies.contract.check import examine
from hpo_core.strategies.make import make_strategy
from hpo_core.study.file import load_study, study_from
from hpo_core.study.spec import StudySpec

SPACE = SearchSpace({"x": Float(low=0, high=1)})
MODULE = """
from dataclasses import dataclass
import random
import numpy as np
from hpo_core import Proposal, Strategy, fill, trial_rng

@dataclass(frozen=True)
class Uniform:
    scale: float = 1.0
    def propose(self, space, history, n, *, seed):
        def points(number):
            rng = trial_rng(seed, number)
            while True:
                yield self.scale * rng.random(space.dimensions)
        return fill(space, history, n, seed=seed, points=points)

class Says:
    def __init__(self, what):
        self.what = what
    def propose(self, space, history, n, *, seed):
        return eval(self.what)

class Trains(Says):
    chooses_fidelity = True

class Promotes(Strategy):
    promotes = True
    def propose(self, space, history, n, *, seed):
        return []

class Handmade(Uniform):
    def __init__(self, width):
        object.__setattr__(self, "scale", width)

@dataclass(frozen=True)
class Continues:
    keeps: str
    promotes = True
    def propose(self, space, history, n, *, seed):
        last = [trial.number for trial in history if trial.loss is not None][-1:]
        found = Uniform().propose(space, history, 1, seed=seed)
        return [Proposal(each.config, parent=last[0] if last else None) for each in found]
    def promotable(self, history):
        return eval(self.keeps)

@dataclass(frozen=True)
class Refuses(Uniform):
    words: str = ""
    def __post_init__(self):
        if self.words.startswith("settings"):
            raise eval(self.words.partition(" ")[2])
    def check(self, space):
        if self.words.startswith("check"):
            raise eval(self.words.partition(" ")[2])
    def promotable(self, history):
        return None

class Deaf:
    def propose(self, space):
        return []

def function(space, history, n, seed): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own, "LOADED", loaded := dict[str, Any]())
    for where in ("hpo_core.strategies.make", "hpo_core.strategies.own"):
        monkeypatch.setattr(f"{where}.LOADED", loaded)
    (tmp_path / "mine_of_tests.py").write_text(MODULE)
    yield "mine_of_tests"
    sys.modules.pop("mine_of_tests", None)


def study(strategy: Any, **more: Any) -> dict[str, Any]:
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    keys = {"name": "own", "metric": "loss", "direction": "minimize", "stop": {"trials": 5}}
    return {**keys, "space": space, "strategy": strategy, **more}


def spec_of(strategy: Any, **more: Any) -> StudySpec:
    return study_from(study(strategy, **more))


def test_a_study_is_searched_by_a_class_of_the_users(module: str) -> None:
    spec = spec_of({"name": f"{module}:Uniform", "scale": 0.1})
    assert all(p.config["x"] < 0.1 for p in spec.propose(History(), 4))
    below = spec_of(
        {"name": "hyperband", "sampler": f"{module}:Uniform"}, fidelity={"name": "epochs", "min": 1, "max": 9}
    )
    assert [(p.config, p.fidelity) for p in below.propose(History(), 1)] == [
        (spec_of(f"{module}:Uniform").propose(History(), 1)[0].config, 1.0)
    ]


def test_the_module_may_lie_beside_the_study_file(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(str(study(f"{module}:Uniform")))  # flow style
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_study(file).propose(History(), 1)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("absent_of_tests:A", r"strategy.name: .*cannot be imported \(No module named .*run from the folder that"),
        ("M:Absent", r"strategy.name: 'mine_of_tests:Absent' is not there"),
        ("M:function", r"strategy.name: 'mine_of_tests:function' is a function, not a class; name a class"),
        ("M:Deaf", r"strategy.name: .*has another propose .*; give it propose\(self, space, history, n, \*, seed\)"),
        ("M:Path:", r"strategy.name: 'mine_of_tests:Path:' is not an import path; write it as module:Class"),
        ("uniformm", r"strategy.name: 'uniformm' is not a strategy; .*one of your own is module:Class"),
        ({"name": "M:Uniform", "scal": 1}, r"strategy.scal: .*has no setting 'scal'; did you mean 'scale'\?"),
        ({"name": "M:Uniform", "scale": "x"}, r"strategy.scale: 'x' is not a number; correct it"),
        ({"name": "M:Says"}, r"strategy: 'mine_of_tests:Says' refuses its settings {} \(TypeError: .*what"),
        ({"name": "hyperband", "sampler": "M:Absent"}, r"strategy.sampler.name: .* is not there"),
        (
            {"name": "M:Refuses", "words": "settings ValueError('too wide')"},
            r"strategy: 'mine_of_tests:Refuses' refuses its settings {'words': .*} \(too wide\); correct them",
        ),
        ({"name": "M:Refuses", "words": "settings KeyError('x')"}, r"refuses its settings {.*} \(KeyError: 'x'\)"),
        (
            {"name": "M:Refuses", "words": "check ValueError('a float is needed')"},
            r"strategy: 'mine_of_tests:Refuses' refuses this study: a float is needed; change that, or choose another",
        ),
        ({"name": "M:Refuses", "words": "check ValueError('words: too long')"}, "strategy.words: too long"),
        ({"name": "M:Refuses", "words": "check KeyError('x')"}, r"strategy: .* check raised KeyError: 'x' \(.*line"),
        (
            {"name": "hyperband", "sampler": {"name": "M:Refuses", "words": "check ValueError('words: too long')"}},
            "strategy.sampler.words: too long",
        ),
        (
            {"name": "hyperband", "sampler": {"name": "grid", "steps_by_name": {"z": 3}}},
            "strategy.sampler.steps_by_name: 'z' is not a parameter",
        ),
        (
            {"name": "gradient", "outer": {"name": "grid", "steps_by_name": {"z": 3}}},
            "strategy.outer.steps_by_name: 'z' is not a parameter",
        ),
    ],
)
def test_what_cannot_be_used_is_told(module: str, strategy: Any, message: str) -> None:
    if isinstance(strategy, str):
        strategy = strategy.replace("M:", f"{module}:", 1)
    else:
        strategy = json.loads(json.dumps(strategy).replace('"M:', f'"{module}:'))
    with pytest.raises(InputError, match=message):
        spec_of(strategy, fidelity={"name": "epochs", "min": 1, "max": 9})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("[Proposal({'x': 2.0})]", r"proposes {'x': 2.0}, which is outside the space: 'x': .*; make configurations"),
        ("[Proposal({'x': 0.1 * i}) for i in range(3)]", "returns 3 proposals when it is asked for 1"),
        ("None", "returns None; return a list of hpo_core.Proposal"),
        ("1 / 0", r"propose raised ZeroDivisionError: division by zero \(.*line 1\)"),
        ("exit(3)", r"propose raised SystemExit: 3 \(.*"),
        ("[Proposal({'x': random.random()})]", "proposes something else when it is asked the same again; draw all"),
        ("[Proposal({'x': 0.1}, 3.0)]", "proposes the fidelity 3.0; set its chooses_fidelity"),
        ("[Proposal({'x': 0.1}, parent=0)]", "continues trial 0; set its promotes"),
        ("[Proposal({'x': 0.1}, notes={'a': [1]})]", r"notes 'a': \[1\]; note texts, numbers"),
    ],
)
def test_what_it_proposes_is_checked(module: str, what: str, message: str) -> None:
    made = make_strategy(f"{module}:Says", {"what": what})
    with pytest.raises(InputError, match=f"strategy: 'mine_of_tests:Says' .*{message}"):
        made.propose(SPACE, History(), 1, seed=0)


def test_a_dataclass_with_an_init_of_its_own_has_the_settings_of_that(module: str) -> None:
    (proposal,) = make_strategy(f"{module}:Handmade", {"width": 0.5}).propose(SPACE, History(), 1, seed=0)
    assert proposal.config["x"] <= 0.5
    with pytest.raises(InputError, match=r"strategy\.scale: .* has no setting 'scale'; choose one of width"):
        make_strategy(f"{module}:Handmade", {"scale": 0.5})


def test_a_fidelity_that_it_proposes_is_checked_even_if_it_keeps_none(module: str) -> None:
    made = make_strategy(f"{module}:Trains", {"what": "[Proposal({'x': 0.1}, 'far')]"})
    with pytest.raises(InputError, match="proposes the fidelity 'far'; give one above 0"):
        made.propose(SPACE, History(), 1, seed=0)
    fine = make_strategy(f"{module}:Trains", {"what": "[Proposal({'x': 0.1}, 0.5)]"})
    assert [proposal.fidelity for proposal in fine.propose(SPACE, History(), 1, seed=0)] == [0.5]


def test_numbers_that_are_none_in_its_notes_are_no_other_proposal(module: str) -> None:
    made = make_strategy(f"{module}:Says", {"what": "[Proposal({'x': 0.1}, notes={'std': float('nan')})]"})
    assert made.propose(SPACE, History(), 1, seed=0)


def test_what_promotes_keeps_every_complete_trial_unless_it_says_otherwise(module: str) -> None:
    history = History([Trial(0, {"x": 0.5}, TrialState.COMPLETE, 1.0), Trial(1, {"x": 0.1}, TrialState.FAILED)])
    for name, kept in (("Promotes", {0}), ("Uniform", set())):
        assert make_strategy(f"{module}:{name}").promotable(history) == kept


def test_what_it_says_may_be_continued_is_checked(module: str) -> None:
    with pytest.raises(InputError, match="returns None as promotable; return a frozenset of numbers of trials"):
        make_strategy(f"{module}:Refuses").promotable(History())


def test_a_study_is_read_where_its_strategy_is_not() -> None:
    spec = study_from(study("absent_of_tests:Mine"), reading=True)
    history = History([Trial(0, {"x": 0.5}, TrialState.COMPLETE, 1.0)])
    assert (spec.stop_reason(history, 0.0), spec.started(history)) == (None, 1)
    with pytest.raises(InputError, match="cannot be imported"):
        spec.propose(history, 1)
    assert study_from(study("of_a_package_that_is_gone"), reading=True).strategy.name == "of_a_package_that_is_gone"


def broken(module: str, name: str, **settings: Any) -> dict[str, str]:
    """The laws that a strategy breaks, each with the example."""
    found = examine(f"{module}:{name}", settings, 0)
    return {verdict.law: verdict.counter_example for verdict in found if verdict.counter_example}


NEW = "[Proposal(space.decode(trial_rng(seed, history.next_number).random(space.dimensions)))]"
DRAWN = "[Proposal(space.decode(np.array([random.random() for _ in space.free])))]"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("None", "returns None; return a list of hpo_core.Proposal"),
        (DRAWN, "it draws from a global generator"),
        (DRAWN, "asked again, it proposes"),
        (f"object.__setattr__(history, 'trials', ()) or {NEW}", "propose changes the space or the history"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("exit(3)", "propose raised SystemExit: 3"),
                (f"[Proposal({NEW}[0].config, 3.0)]", "proposes the fidelity 3.0; set its chooses_fidelity = True"),
                (f"random.seed(seed) or {NEW}", "it draws from a global generator, or seeds one"),
                (
                    f"[t.config.update(x=0.0) for t in history] and {NEW} or {NEW}",
                    "propose changes the space or the history",
                ),
            )
        ),
    ],
)
def test_the_laws_find_what_a_strategy_does_wrong(module: str, what: str, says: str) -> None:
    assert says in " ".join(broken(module, "Says", what=what).values())


def test_the_laws_find_nothing_wrong_with_what_is_right(module: str) -> None:
    assert not broken(module, "Uniform")


@pytest.mark.parametrize(
    ("keeps", "says"),
    [
        ("{trial.number for trial in history}", ""),
        ("frozenset()", "it continues trial 0, which promotable has left out before"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("None", "promotable returns None; return a frozenset of numbers of trials"),
                ("[-1]", "promotable names trial -1, which is not there"),
                ("{trial.number for trial in history if random.random() < 0.5}", "asked again, promotable gives"),
            )
        ),
    ],
)
def test_the_laws_find_what_is_wrong_with_promotable(module: str, keeps: str, says: str) -> None:
    laws = broken(module, "Continues", keeps=keeps).items()
    found = " ".join(example for law, example in laws if law.startswith("what it continues"))
    assert says in found and bool(says) == bool(found)


def install(folder: Path, package: str, **entries: str) -> None:
    """A package with entry points, as pip leaves it."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[{own.GROUP}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_a_package_names_its_strategies_by_entry_points(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "package_of_tests", mine_evenly=f"{module}:Uniform", gone=f"{module}:Gone", twice="a:B")
    install(tmp_path, "other_of_tests", twice="c:D")
    spec = spec_of({"name": "mine_evenly", "scale": 0.1})
    assert spec.propose(History(), 2) == spec_of({"name": f"{module}:Uniform", "scale": 0.1}).propose(History(), 2)
    for name, message in {
        "gone": r"'gone', which is mine_of_tests:Gone of an installed package, cannot be imported \(AttributeError",
        "mine_evnly": "is not a strategy; did you mean 'mine_evenly'",
        "twice": "'twice' is an entry point of several packages: a:B and c:D; name the class itself, as module:Class",
    }.items():
        with pytest.raises(InputError, match=f"strategy.name: .*{message}"):
            spec_of(name)
