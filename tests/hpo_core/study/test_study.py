"""The study file: what is accepted, what is said of the rest, what a resume may change, and what a study proposes."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import InputError, StudyConflict
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.configuration import identity
from hpo_core.space.parameters import Choice, Float, Int
from hpo_core.space.search_space import SearchSpace
from hpo_core.study.file import MAX_FILE_BYTES, load_study, override_spec, study_from
from hpo_core.study.isolation import for_debugging
from hpo_core.study.resume import compare
from hpo_core.study.spec import StudySpec
from hpo_core.study.yaml import YAMLError, parse_yaml
from hpo_flows.reports.text import status_line

STUDY: dict[str, Any] = {
    "name": "parabola",
    "objective": "parabola:loss",
    "metric": "loss",
    "direction": "minimize",
    "space": {
        "x": {"type": "float", "low": -1, "high": 1},
        "kind": {"type": "choice", "choices": ["a", "b"]},
        "n": {"type": "int", "low": 1, "high": 9, "when": {"kind": ["b"]}},
    },
    "stop": {"trials": 10},
}


FIDELITY: dict[str, Any] = {"name": "epochs", "min": 1, "max": 27}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The study above with one key set, or with Ellipsis removed."""
    data: dict[str, Any] = copy.deepcopy(STUDY)
    *parents, last = path.split("/")
    place = data
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def spec(**changes: Any) -> StudySpec:
    return study_from(STUDY | changes)


def parameter(**settings: Any) -> dict[str, Any]:
    return {"type": "float", "low": 0, "high": 1} | settings


BAD: list[tuple[str, Any, str, str, str]] = [
    # what is set, to which value; the field, the value and the remedy that the message must name
    ("nmae", "x", "nmae", "unknown key", "did you mean 'name'?"),
    ("colour", "x", "colour", "unknown key", "choose one of name, experiment"),
    ("stop/trial", 3, "stop.trial", "unknown key", "did you mean 'trials'?"),
    ("stop/colour", 3, "stop.colour", "unknown key", "choose one of trials, minutes, target, no_improvement"),
    ("space/x/lo", 0, "space.x.lo", "unknown key", "did you mean 'low'?"),
    ("space/kind/low", 0, "space.kind.low", "unknown key", "choose one of type, choices, when"),
    ("space/b", {"type": "boolean", "choices": [True]}, "space.b.choices", "unknown key", "choose one of type, when"),
    ("name", ..., "name", "is missing", "add it"),
    ("metric", ..., "metric", "is missing", "add it"),
    ("direction", ..., "direction", "is missing", "add it"),
    ("space", ..., "space", "is missing", "add it"),
    ("stop", ..., "stop", "is missing", "add it"),
    ("stop", None, "stop", "is missing", "add it"),
    ("prior", {"x": None}, "prior.x", "no belief is given", "write {around: VALUE}, or remove it"),
    ("space/x/high", ..., "space.x.high", "is missing", "add it"),
    ("space/kind/choices", ..., "space.kind.choices", "is missing", "add it"),
    ("strategy", "randon", "strategy.name", "'randon'", "did you mean 'random'?"),
    ("strategy", "zzz", "strategy.name", "'zzz'", "choose one of asha"),
    ("strategy", {"steps": 3}, "strategy.name", "is missing", "add it"),
    ("strategy", 5, "strategy", "5", "correct it"),
    ("strategy", {"name": "grid", "step": 3}, "strategy.step", "'step'", "did you mean 'steps'?"),
    ("strategy", {"name": "random", "steps": 3}, "strategy.steps", "'steps'", "there is none"),
    ("strategy", {"name": "grid", "steps": 0}, "strategy.steps", "0", "correct it"),
    ("strategy", {"name": "grid", "steps": "many"}, "strategy.steps", "'many'", "correct it"),
    ("strategy", {"name": "grid", "steps": True}, "strategy.steps", "True", "correct it"),
    ("strategy", {"name": "grid", "steps_by_name": 3}, "strategy.steps_by_name", "3", "correct it"),
    ("strategy", {"name": "grid", "steps_by_name": [3]}, "strategy.steps_by_name", "[3]", "correct it"),
    ("strategy", {"name": "grid", "steps_by_name": {"x": 0}}, "strategy.steps_by_name.x", "0", "correct it"),
    ("strategy", {"name": "grid", "steps_by_name": {"y": 3}}, "strategy.steps_by_name", "'y'", "['x', 'kind', 'n']"),
    ("space/x", parameter(low=5), "space.x", "low 5.0 is above high 1.0", "swap them"),
    ("space/n", {"type": "int", "low": 5, "high": 1}, "space.n", "low 5 is above high 1", "swap them"),
    ("space/x", parameter(log=True), "space.x", "low 0.0", "raise low or drop log"),
    ("space/x", parameter(low=-1, log=True), "space.x", "low -1.0", "raise low or drop log"),
    ("space/x", parameter(step=0), "space.x", "step 0.0", "not above 0"),
    ("space/x", parameter(step=1e-12), "space.x", "step 1e-12", "leave it out"),
    ("space/x/low", "cold", "space.x.low", "'cold'", "correct it"),
    ("space/x/low", True, "space.x.low", "True", "not a number"),
    ("space/x/high", float("inf"), "space.x.high", "inf", "finite"),
    ("space/x/high", 10**400, "space.x.high", "1000", "correct it"),
    ("space/x/log", "maybe", "space.x.log", "'maybe'", "correct it"),
    ("space/n/low", 0.5, "space.n.low", "0.5", "correct it"),
    ("space/n/high", 2**60, "space.n", str(2**60), "beyond 2**43"),
    ("space/kind/choices", [], "space.kind.choices", "empty", "give at least one value"),
    ("space/kind/choices", ["a", "b", "a"], "space.kind.choices", "'a'", "remove one"),
    ("space/kind/choices", [1, 1.0], "space.kind.choices", "1.0", "remove one"),
    ("space/kind/choices", [[1]], "space.kind.choices.0", "[1]", "not a string, a finite number"),
    ("space/x", {"type": "flaot", "low": 0, "high": 1}, "space.x.type", "'flaot'", "did you mean 'float'?"),
    ("space/x", {"low": 0, "high": 1}, "space.x.type", "None", "choose one of float, int"),
    ("space/x", 3, "space.x", "3", "correct it"),
    ("space", {}, "space", "{} is too short", "at least 1"),
    ("space", [1], "space", "[1]", "correct it"),
    ("space", {1: {"type": "boolean"}}, "space.1", "the name 1 is not text", "quote it"),
    ("limits", {3: "<= 1"}, "limits.3", "the name 3 is not text", "quote it"),
    ("space/x", [1, 2], "space.x", "[1, 2] is not a mapping of keys to values", "correct it"),
    ("stop", 5, "stop", "5 is not a mapping of keys to values", "correct it"),
    ("fidelity", 9, "fidelity", "9 is not a mapping of keys to values", "correct it"),
    ("seed", 2**40, "seed", f"{2**40} is not a whole number below 4294967296", "correct it"),
    ("space/n/when", {"absent": [1]}, "space.n.when.absent", "'absent'", "['x', 'kind', 'n']"),
    ("space/x/when", {"kind": ["a"]}, "space.x.when.kind", "declared after 'x'", "move it before"),
    ("space/n/when", {"kind": ["c"]}, "space.n.when.kind", "'c'", "would never be active"),
    ("space/n/when", {"kind": []}, "space.n.when.kind", "no value", "would never be active"),
    ("space/n/when", {"n": [1]}, "space.n.when", "cycle", "n -> n"),
    ("space/kind/when", {"n": [1]}, "space.kind.when", "cycle", "kind -> n -> kind"),
    ("space/n/when", 3, "space.n.when", "3", "correct it"),
    ("space/a\tb", {"type": "boolean"}, "space.a\tb", "this name", "can be printed"),
    ("constraints", ["x > 2"], "constraints", "['x > 2']", "loosen them"),
    ("constraints", ["x >"], "constraints.0", "'x >'", "is not an expression"),
    ("constraints", ["x < 1", "y > 2"], "constraints.1", "'y'", "not a parameter of the space"),
    ("constraints", ["x.real > 2"], "constraints.0", "'x.real'", "write it with arithmetic"),
    ("constraints", ["x < 'a'"], "constraints", "x < 'a'", "cannot be evaluated"),
    ("constraints", "x < 1", "constraints", "'x < 1'", "is not a list"),
    ("constraints", [3], "constraints.0", "3", "is not text"),
    ("first", [{"x": 2, "kind": "a"}], "first.0", "'x': 2", "from -1.0 to 1.0"),
    ("first", [{"x": 0, "kind": "a"}, {"x": 0}], "first.1", "'kind'", "is missing"),
    ("first", [{"x": 0, "kind": "a", "n": 1}], "first.0", "'n'", "not active"),
    ("first", [{"x": 0, "kind": "b", "n": 10**400}], "first.0", "'n'", "from 1 to 9"),
    ("first", [{"x": 0, "kind": "a", "z": 1}], "first.0", "'z'", "not a parameter of the space"),
    ("first", [{"x": [0], "kind": "a"}], "first.0", "[0]", "not a string, a finite number"),
    ("first", 3, "first", "3", "is not a list"),
    ("first", [{"x": 0, "kind": "a"}, {"kind": "a", "x": 0.0}], "first.1", "it equals first.0", "remove it"),
    ("champion", {"seeds": 3}, "champion.model", "is missing", "add it"),
    ("champion", {"model": "a/b"}, "champion.model", "'a/b'", "write it as digits-classifier"),
    ("champion", {"model": "a:1"}, "champion.model", "'a:1'", "write it as digits-classifier"),
    ("champion", {"model": " "}, "champion.model", "' '", "write it as digits-classifier"),
    ("champion", {"model": ".."}, "champion.model", "'..'", "write it as digits-classifier"),
    ("champion", {"model": "m", "seeds": 0}, "champion.seeds", "0", "of at least 1"),
    ("champion", {"model": "m", "confidence": 1}, "champion.confidence", "1", "below 1"),
    ("champion", {"model": "m", "seed": 3}, "champion.seed", "unknown key", "did you mean 'seeds'?"),
    ("notify", {"on": ["finished"]}, "notify.0.url", "is missing", "add it"),
    ("notify", {"on": [], "url": "http://h/"}, "notify.0.on", "[]", "at least 1"),
    ("notify", {"on": ["ended"], "url": "http://h/"}, "notify.0.on.0", "'ended'", "finished, failed"),
    ("notify", {"on": ["finished"], "url": "ftp://h/"}, "notify.0.url", "'ftp://h/'", "write it as https://host/path"),
    ("notify", [{"on": ["failed"], "url": "${X}", "urls": 1}], "notify.0.urls", "unknown key", "did you mean 'url'?"),
    ("name", "it's", "name", '"it\'s"', "quotes"),
    ("name", 'a"b', "name", "'a\"b'", "quotes"),
    ("name", "a%b", "name", "'a%b'", "percent signs"),
    ("name", "a\nb", "name", r"'a\nb'", "control characters"),
    ("name", " a", "name", "' a'", "outer spaces"),
    ("name", "", "name", "''", "empty"),
    ("name", False, "name", "False", "is not text"),
    ("name", 3, "name", "3", "is not text"),
    ("name", "a" * 201, "name", "'aaaa", "at most 200 characters"),
    ("experiment", "it's", "experiment", '"it\'s"', "quotes"),
    ("objective", "train", "objective", "'train'", "module:function"),
    ("objective", "a b:train", "objective", "'a b:train'", "module:function"),
    ("objective", "train.py:f/g:", "objective", "'train.py:f/g:'", "module:function"),
    ("metric", "", "metric", "''", "at least 1 character"),
    ("direction", "down", "direction", "'down'", "minimize, maximize"),
    ("stop", {}, "stop", "no rule", "give trials, minutes, target, no_improvement, full_trainings, cost or worth"),
    ("stop", 3, "stop", "3", "correct it"),
    ("stop", {"target": {}}, "stop", "no rule", "give trials"),
    ("limits", {"ms": "<= 1.2.3"}, "limits.ms", "'<= 1.2.3'", "such as '<= 20'"),
    ("limits", {"ms": "<= ."}, "limits.ms", "'<= .'", "such as '<= 20'"),
    ("limits", {"ms": 20}, "limits.ms", "20", "such as '<= 20'"),
    ("limits", {"ms": [">= 1", "<= 5"]}, "limits.ms", "['>= 1', '<= 5']", "such as '<= 20'"),
    ("prior", {"x": 1}, "prior.x", "1", "write {around: 1}"),
    ("prior", {"x": {"around": 0, "conf": "low"}}, "prior.x.conf", "unknown key", "choose one of around, confidence"),
    ("stop/trials", 0, "stop.trials", "0", "of at least 1"),
    ("stop/trials", "many", "stop.trials", "'many'", "is not a whole number"),
    ("stop/trials", "+0", "stop.trials", "0", "of at least 1"),
    ("stop/trials", "+x", "stop.trials", "'+x'", "is not a whole number"),
    ("stop", {"minutes": 3, "more": True}, "stop", "it says more, but not how many trials", "write trials: +20, say"),
    ("data", "rows", "data", "'rows'", "write it as module:function"),
    ("data", 3, "data", "3", "is not text"),
    ("stop/trials", True, "stop.trials", "True", "is not a whole number"),
    ("stop/minutes", 0, "stop.minutes", "0", "above 0"),
    ("stop/target", float("nan"), "stop.target", "nan", "finite"),
    ("stop/no_improvement", 0, "stop.no_improvement", "0", "of at least 1"),
    ("fidelity", FIDELITY | {"eta": 1.5}, "fidelity.eta", "1.5", "of at least 2"),
    ("fidelity", FIDELITY | {"min": 30}, "fidelity.min", "30 is above max, 27", "swap them"),
    ("fidelity", FIDELITY | {"min": 0}, "fidelity.min", "0", "above 0; correct it"),
    ("fidelity", FIDELITY | {"min": "few"}, "fidelity.min", "'few'", "correct it"),
    ("fidelity", FIDELITY | {"max": True}, "fidelity.max", "True", "is not a number"),
    ("fidelity", FIDELITY | {"max": float("inf")}, "fidelity.max", "inf", "finite"),
    ("fidelity", FIDELITY | {"name": ""}, "fidelity.name", "''", "at least 1 character"),
    ("fidelity", FIDELITY | {"steps": 3}, "fidelity.steps", "unknown key", "choose one of name, min, max, eta"),
    ("fidelity", {"name": "epochs", "min": 1}, "fidelity.max", "is missing", "add it"),
    ("strategy", "hyperband", "fidelity", "'hyperband' needs it", "add fidelity: {name: epochs"),
    ("stop", {"full_trainings": 3}, "stop.full_trainings", "without a fidelity", "add fidelity"),
    ("stop", {"full_trainings": 0}, "stop.full_trainings", "0", "above 0"),
    ("early_stop", "medium", "early_stop.rule", "'medium' is not a rule", "did you mean 'median'?"),
    ("early_stop", {"first": 3}, "early_stop.rule", "is missing", "add it"),
    ("early_stop", {"rule": "median", "patience": 3}, "early_stop.patience", "'patience'", "choose one of first, eta"),
    ("early_stop", {"rule": "median", "first": 0}, "early_stop.first", "0", "correct it"),
    ("early_stop", {"rule": "median", "every": 1.5}, "early_stop.every", "1.5", "correct it"),
    ("early_stop", {"rule": "plateau", "patience": True}, "early_stop.patience", "True", "correct it"),
    ("early_stop", {"rule": "asha_stop", "eta": 1}, "early_stop.eta", "1", "correct it"),
    ("early_stop", {"rule": "extrapolation", "steps": 9, "chance": 5}, "early_stop.chance", "5", "correct it"),
    ("early_stop", "extrapolation", "early_stop.steps", "is missing", "say how many steps"),
    ("parallel", 0, "parallel", "0", "of at least 1"),
    ("parallel", 1.5, "parallel", "1.5", "is not a whole number"),
    ("parallel", True, "parallel", "True", "is not a whole number"),
    ("retries", True, "retries", "True", "is not a whole number"),
    ("trial_timeout", True, "trial_timeout", "True", "is not a number"),
    ("memory_limit", True, "memory_limit", "True", "is not a whole number"),
    ("resources", {"gpus": True}, "resources.gpus", "True", "is not a number"),
    ("final", True, "final", "True", "is not a mapping of keys to values"),
    ("limits", True, "limits", "True", "is not a mapping of names to values"),
    ("repeats", True, "repeats", "True", "is neither auto nor off"),
    ("early_stop", True, "early_stop", "True", "is not a mapping of keys to values"),
    ("retries", -1, "retries", "-1", "of at least 0"),
    ("trial_timeout", 0, "trial_timeout", "0", "above 0"),
    ("seed", -1, "seed", "-1", "of at least 0"),
    ("seed", 2**32, "seed", str(2**32), "below"),
]


@pytest.mark.parametrize(("path", "value", "field", "shown", "remedy"), BAD)
def test_a_bad_study_names_field_value_and_remedy(path: str, value: Any, field: str, shown: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        study_from(changed(path, value))
    message = str(caught.value)
    assert message.startswith(f"{field}: "), message
    assert shown in message
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["stop: {trials: +20}", "stop:\n  trials: +20", 'stop: {trials: "+20", minutes: 3}'])
def test_more_trials_keep_their_sign_from_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    data = {key: value for key, value in STUDY.items() if key != "stop"}
    path.write_text(yaml.safe_dump(data) + text + "\n")
    stop = load_study(path).stop
    assert (stop.trials, stop.more) == (20, True)
    for override in ("stop.trials=+7", "stop.trials=7"):
        stop = load_study(path, [override]).stop
        assert (stop.trials, stop.more) == (7, "+" in override)
    assert override_spec(spec(), ["stop.trials=+5"]).stop.more


def test_a_sign_says_nothing_elsewhere() -> None:
    assert parse_yaml("{low: +1, stop: {minutes: +5}, trials: +3, first: [{trials: +3}]}") == {
        "low": 1, "stop": {"minutes": 5}, "trials": 3, "first": [{"trials": 3}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "started", "ended", "total"),
    [
        (20, 0, True, 5),
        (20, 7, False, 20),
        (20, 7, True, 20),
        (20, 20, False, 20),
        (20, 20, True, 25),
        (None, 7, True, 12),
    ],
)
def test_more_trials_are_added_once_the_last_total_is_reached(
    stored: int | None, started: int, ended: bool, total: int
) -> None:
    given, last = spec(stop={"trials": "+5"}), spec(stop={"trials": stored, "minutes": 1})
    settled, why = given.with_total_trials(last, started, ended)
    assert (settled.stop.trials, settled.stop.more) == (total, False)
    assert str(total) in why
    assert last.with_total_trials(given, started, ended) == (last, "")
    assert given.as_new_study.stop.trials == 5 and not given.as_new_study.stop.more


def test_everything_wrong_is_said_at_once() -> None:
    data = changed("nmae", "x") | {"parallel": 0}
    with pytest.raises(InputError) as caught:
        study_from(data)
    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {"nmae", "parallel"}


def test_a_belief_about_a_boolean_is_true_or_false() -> None:
    space = {"b": {"type": "boolean"}, "c": {"type": "choice", "choices": [True, "a"]}}
    study = study_from(STUDY | {"space": space, "prior": {"b": {"around": True}, "c": {"around": True}}})
    assert [belief.around for belief in study.prior.values()] == [True, True]


@pytest.mark.parametrize("key", [key for key in StudySpec.model_fields if key not in {*STUDY, "metrics"}])
def test_a_key_without_a_value_counts_as_not_given(key: str) -> None:
    """Whoever comments out all limits leaves ``limits:`` behind."""
    assert study_from(STUDY | {key: None}) == study_from(STUDY)
    with pytest.raises(InputError, match="limts: unknown key; did you mean 'limits'"):
        study_from(STUDY | {"limts": None})


def test_the_smallest_study_and_its_defaults() -> None:
    study = spec()
    assert (study.experiment, study.strategy.name, study.parallel, study.seed) == ("parabola", "auto", 1, 0)
    assert study_from(json.loads(study.to_json())) == study
    assert study_from(json.loads(study.to_json())).to_json() == study.to_json()


@pytest.mark.parametrize(("direction", "loss"), [("minimize", 2.5), ("maximize", -2.5)])
def test_losses_are_minimised(direction: str, loss: float) -> None:
    assert spec(direction=direction).loss(2.5) == loss


# -- the file --------------------------------------------------------------------------------------------------------

GOOD = """\
name: parabola
objective: parabola:loss
metric: loss
direction: minimize
space:
  x: {type: float, low: 1e-4, high: 1E+1, log: true}
stop: {trials: 3}
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "study.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_study_file(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GOOD))
    assert (study.space["x"].low, study.space["x"].high) == (1e-4, 10.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not a YAML file"),
        ("a: b: c", "not a YAML file"),
        ("a\tb: 1\n\tc: 2", "not a YAML file"),
        (b"\xff\xfe\xfa", "not a YAML file"),
        ("a: \0", "not a YAML file"),
        ("a: 1\nb: 2\na: 3", r"the key 'a' is given twice \(line 3\)"),
        ("space: {x: {low: 1, low: 2}}", r"the key 'low' is given twice \(line 1\)"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("<<: {a: 1}", "<<: unknown key"),
        ("a: 1\n---\nb: 2", "not a YAML file"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("a: !custom x", "could not determine a constructor"),
        ("[" * 5000, "not a YAML file"),
        ("{a: " * 2000 + "}" * 2000, "not a YAML file"),
        ("? [1]\n: 2", "used as a key"),
        ("name: !!float 2024-13-01", "not a YAML file"),
        ("seed: " + "9" * 5000, "not a YAML file"),
        ("a: !!bool x", "not a YAML file"),
        ("a: !!int ''", "not a YAML file"),
        ("a: !!timestamp x", "not a YAML file"),
        ("- 1\n- 2", "holds list, not keys and values"),
        ("just text", "holds str, not keys and values"),
        ("", "holds NoneType, not keys and values"),
        ("#" * (MAX_FILE_BYTES + 1), f"at most {MAX_FILE_BYTES}"),
        ("1: 2", "1: keys should be strings"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: ") or message.startswith(("1: keys", "<<: "))


def test_an_absent_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read .*check the path") as caught:
            load_study(path)
        assert str(path) in str(caught.value)


def test_a_file_that_would_fill_the_memory_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "b0: &b0 [x]\n" + "".join(f"b{i}: &b{i} [{f'*b{i - 1}, ' * 9}]\n" for i in range(1, 20))
    start = time.process_time()
    with pytest.raises(InputError, match="aliases"):
        load_study(written(tmp_path, bomb))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-1e3", -1e3),
        ("+1.e2", 100.0),
        (".5e1", 5.0),
        ("1.5e-3", 1.5e-3),
        ("1.0e-3", 1e-3),
        ("12", 12),
        ("0.1", 0.1),
        ("true", True),
        ("null", None),
        ("'1e-4'", "1e-4"),
        ("1e5-run", "1e5-run"),
        ("1e4abc", "1e4abc"),
        ("2e", "2e"),
        ("e5", "e5"),
        ("1.2.3e4", "1.2.3e4"),
        *((word, word) for word in ("on", "off", "yes", "no", "y", "n", "On", "OFF", "Yes", "tRue", "nUll", "<<", "=")),
        *((word, True) for word in ("True", "TRUE")),
        *((word, None) for word in ("~", "Null", "NULL", "")),
        ("010", 10),
        ("-007", -7),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("00.5", 0.5),
    ],
)
def test_yaml_scalars(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("bound", [">= 0.9", ">=0.9", "<= 20", "<=20"])
def test_a_bound_is_a_text_wherever_it_stands(bound: str) -> None:
    for text in (bound, f"{{a: {bound}, b: 1}}", f"[{bound}, 1]", f"a: {bound}\nb: 1\n", f"- {bound}  # why\n"):
        found = parse_yaml(text)
        assert found in (bound, {"a": bound, "b": 1}, [bound, 1], [bound])
    assert parse_yaml("a: >\n  >= 1\n  folded\n") == {"a": ">= 1 folded\n"}


def test_a_study_file_means_what_it_shows(tmp_path: Path) -> None:
    choices = "\n  switch: {type: choice, choices: [on, off, auto, yes, no, 010, 1:30]}\n  no: {type: boolean}"
    space = load_study(written(tmp_path, GOOD.replace("space:", f"space:{choices}"))).search_space
    assert space.parameters["switch"].values(9) == ["on", "off", "auto", "yes", "no", 10, "1:30"]
    assert "no" in space.parameters
    found = load_study(written(tmp_path, GOOD), ["space.x={type: choice, choices: [on, 0o10]}"]).search_space
    assert found.parameters["x"].values(9) == ["on", 8]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 2]))
def test_json_is_yaml(data: Any, indent: int | None) -> None:
    assert repr(parse_yaml(json.dumps(data, indent=indent))) == repr(data)


@given(JSON)
def test_json_with_its_characters_as_they_are_is_read_or_refused(data: Any) -> None:
    try:
        found = parse_yaml(json.dumps(data, ensure_ascii=False))
    except YAMLError:
        return
    assert repr(found) == repr(data)


@pytest.mark.parametrize(
    "text",
    ['"\\ud83d"', "a: \x85b", "'a\u2028b'", "!!timestamp 2026-01-01", "{true: 1, 'true': 2}", "!!int on"],
)
def test_what_yaml_1_2_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(YAMLError):
        parse_yaml(text)


# -- numpy -----------------------------------------------------------------------------------------------------------


def with_numpy(data: Any) -> Any:
    """The same with numpy's numbers, booleans and arrays wherever Python's stand."""
    if isinstance(data, Mapping):
        return {key: with_numpy(value) for key, value in data.items()}
    if isinstance(data, list):
        same = len({type(each) for each in data}) == 1 and isinstance(data[0], int | float)
        return np.array(data) if same else [with_numpy(each) for each in data]
    if isinstance(data, bool):
        return np.bool_(data)
    if isinstance(data, int | float):
        return np.int64(data) if isinstance(data, int) else np.float32(data)
    return data


@pytest.mark.parametrize(
    "changes",
    [
        {
            "space": {
                "x": {"type": "float", "low": 0.25, "high": 1.0, "log": True, "step": 2.0},
                "n": {"type": "int", "low": 1, "high": 64, "step": 2, "log": True},
                "k": {"type": "choice", "choices": [1, 2, 4]},
                "m": {"type": "ordinal", "choices": ["a", 2, 0.5, True]},
                "f": {"type": "fixed", "value": 3, "when": {"k": [1, 4]}},
            },
            "first": [{"x": 0.5, "n": 8, "k": 2, "m": True}],
        },
        {
            "parallel": 2, "retries": 3, "seed": 7, "trial_timeout": 1.5, "memory_limit": 10**9,
            "stop": {"trials": 3, "minutes": 0.5, "target": 0.25, "no_improvement": 2, "full_trainings": 8.0},
            "fidelity": {"name": "epochs", "min": 1, "max": 27, "eta": 3.0},
            "strategy": {"name": "hyperband", "sampler": {"name": "bayesian", "start": 5}},
            "early_stop": {"rule": "median", "trials": 4},
            "final": {"top": 3, "folds": 4}, "champion": {"model": "m", "seeds": 2, "confidence": 0.75},
            "resources": {"gpus": 0, "cpus": 2, "memory": 2**30},
            "callbacks": [{"EarlyStopping": {"patience": 3, "restore_best_weights": True}}],
        },
        {"strategy": {"name": "grid", "steps": 3, "steps_by_name": {"x": 4}}},
        {"strategy": {"name": "tpe", "gamma": 0.25}},
    ],
)  # fmt: skip
def test_numpys_numbers_are_taken_wherever_pythons_are(changes: dict[str, Any]) -> None:
    data = STUDY | changes
    assert study_from(with_numpy(data)).to_json() == study_from(data).to_json()


def test_numpys_numbers_make_parameters() -> None:
    given = {"low": np.float32(0.25), "high": np.float64(8), "log": np.bool_(True), "step": np.int64(2)}
    assert Float(**given) == Float(low=0.25, high=8, log=True, step=2)
    assert Int(low=np.int8(1), high=np.uint64(9)) == Int(low=1, high=9)
    assert Choice(choices=np.array([1, 2]), when={"x": np.array([0.5])}) == Choice(choices=[1, 2], when={"x": [0.5]})
    assert Choice(choices=(np.int64(1), "a")).choices == [1, "a"]
    assert len(list(SearchSpace({"x": Float(low=0, high=1)}).enumerate(np.int64(3)))) == 3
    for bad in (np.float32("nan"), np.float64("inf"), np.bool_(True), np.complex128(1)):
        with pytest.raises(ValueError, match="low"):
            Float(low=bad, high=9)


# -- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("stop.trials=5", "stop/trials", 5),
        ("stop.minutes=0.5", "stop/minutes", 0.5),
        ("seed=7", "seed", 7),
        ("space.x.low=1e-3", "space/x/low", 1e-3),
        ("strategy=random", "strategy", "random"),
        ('strategy="random"', "strategy", "random"),
        ("strategy={name: grid, steps: 3}", "strategy", {"name": "grid", "steps": 3}),
        ("name=a=b", "name", "a=b"),
        ("constraints=[x < 0.5]", "constraints", ["x < 0.5"]),
        ("stop={trials: 3}", "stop", {"trials": 3}),
    ],
)
def test_an_override_sets_one_key(tmp_path: Path, override: str, path: str, value: Any) -> None:
    file = written(tmp_path, yaml.safe_dump(STUDY, sort_keys=False))
    assert load_study(file, [override]) == study_from(changed(path, value))


def test_an_override_of_a_strategy_given_by_its_name(tmp_path: Path) -> None:
    file = written(tmp_path, yaml.safe_dump(STUDY | {"strategy": "grid"}, sort_keys=False))
    assert (
        load_study(file, ["strategy.steps=2"]).strategy.make()
        == spec(strategy={"name": "grid", "steps": 2}).strategy.make()
    )


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["stop.trials=5", "stop.trials=6"], "stop.trials"),
        (["stop.trials=5", "seed=3", "stop.trials=5"], "stop.trials"),
        (["stop={trials: 5, minutes: 1}", "stop.trials=6"], "stop.trials"),
        (["stop.trials=6", "stop={trials: 5, minutes: 1}"], "stop.trials"),
        (["strategy=tpe", "strategy.name=random"], "strategy.name"),
        (["strategy={name: hyperband, sampler: {name: tpe}}", "strategy.sampler.name=grid"], "strategy.sampler.name"),
    ],
)
def test_two_overrides_of_one_key_are_refused(overrides: list[str], key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--set: '{key}' is given twice, by '.*' and '.*'; keep one"):
        load_study(written(tmp_path, GOOD), overrides)
    with pytest.raises(InputError, match="is given twice"):
        override_spec(spec(), overrides)


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_hold_in_any_order_and_a_stored_study_takes_them_too(order: int, tmp_path: Path) -> None:
    overrides = ["stop.trials=6", "strategy.start=5", "strategy=tpe", "stop={minutes: 1}"][::order]
    study = load_study(written(tmp_path, GOOD), overrides)
    assert (study.stop.trials, study.stop.minutes) == (6, 1)
    assert study.strategy == spec(strategy={"name": "tpe", "start": 5}).strategy
    stored = spec()
    assert override_spec(stored, ["stop.trials=6"]) == spec(stop={"trials": 6})
    assert stored.stop.trials == 10
    assert override_spec(stored, []) == stored


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stop.trials", "--set: 'stop.trials' is not key=value; write it as"),
        ("=5", "--set: '=5' is not key=value"),
        ("seed=[1", r"--set: the value in 'seed=\[1' is not YAML"),
        ("seed=2024-13-01", "seed: '2024-13-01' is not a whole number"),
        ("seed=" + "[" * 5000, "--set: the value in .* is not YAML"),
        ("name.x=1", "--set: 'name.x=1': 'name' has no keys of its own; name the whole path"),
        ("stop.trials.x=1", "--set: .*'trials' has no keys of its own"),
        ("first.0=1", "--set: .*'first' has no keys of its own"),
        ("stop.trails=5", "stop.trails: unknown key; did you mean 'trials'?"),
        ("nmae=x", "nmae: unknown key; did you mean 'name'?"),
        ("stop.trials=0", "stop.trials: 0"),
        ("stop.trials=", "stop: no rule is given"),
    ],
)
def test_an_override_that_cannot_be_used(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        override_spec(spec(first=[{"x": 0, "kind": "a"}]), [override])


# -- isolation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": 2}, "parallel: 2 trials at a time"),
        ({"trial_timeout": 60}, "trial_timeout: 60.0"),
        ({"memory_limit": "2GiB"}, "memory_limit: 2147483648"),
        ({"runner": {"type": "dask", "address": "there:8786"}}, "runner.type: 'dask'"),
        ({"resources": {"gpus": 1}}, "resources.gpus: 1"),
        ({"resources": {"cpus": 2}}, "resources.cpus: 2"),
    ],
)
def test_what_needs_a_process_is_refused_and_left_out_for_debugging(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        spec(isolation="none", **changes)
    assert str(refused.value).startswith(message) and "isolation: process" in refused.value.remedy
    debugged, left_out = for_debugging(spec(**changes))
    assert left_out == [message.partition(":")[0]]
    assert for_debugging(debugged) == (debugged, []) and debugged.isolation == "none"


# -- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("objective", "other:loss", 'objective: "parabola:loss" -> "other:loss"'),
        ("strategy", "random", 'strategy.name: "auto" -> "random"'),
        ("stop/trials", 20, "stop.trials: 10 -> 20"),
        ("stop/target", 0.1, "stop.target: null -> 0.1"),
        ("parallel", 4, "parallel: 1 -> 4"),
        ("isolation", "none", 'isolation: "process" -> "none"'),
        ("retries", 2, "retries: 0 -> 2"),
        ("trial_timeout", 5, "trial_timeout: null -> 5.0"),
        ("seed", 1, "seed: 0 -> 1"),
        ("objective", "größe:loss", 'objective: "parabola:loss" -> "größe:loss"'),
        ("first", [{"x": 0, "kind": "a"}], 'first: [] -> [{"x": 0, "kind": "a"}]'),
    ],
)
def test_what_a_resume_takes_over(path: str, value: Any, line: str) -> None:
    assert compare(spec(), study_from(changed(path, value))) == [line]


def test_nothing_is_taken_over_from_the_same_study() -> None:
    assert compare(spec(), spec()) == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("metric", "accuracy", 'metric: "loss" -> "accuracy"'),
        ("direction", "maximize", 'direction: "minimize" -> "maximize"'),
        ("experiment", "other", 'experiment: "parabola" -> "other"'),
        ("constraints", ["x < 0.5"], 'constraints: [] -> ["x < 0.5"]'),
        ("space/x/low", -2, "space.x.low: -1.0 -> -2.0"),
        ("space/n", ..., "space.n: "),
        ("space/y", {"type": "boolean"}, "space.y: null -> "),
        ("space/kind/choices", ["a", "b", "c"], 'space.kind.choices: ["a", "b"] -> ["a", "b", "c"]'),
        ("space/n/when", {}, 'space.n.when.kind: ["b"] -> null'),
    ],
)
def test_what_a_resume_refuses(path: str, value: Any, line: str) -> None:
    with pytest.raises(StudyConflict) as caught:
        compare(spec(), study_from(changed(path, value)))
    message = str(caught.value)
    assert message.startswith("study 'parabola': the stored study differs")
    assert f"\n  {line}" in message
    assert "name: ..." in message and message.endswith("hpo delete parabola") and "\n;" not in message


def test_a_refusal_lists_only_what_is_in_the_way() -> None:
    with pytest.raises(StudyConflict) as caught:
        compare(spec(), study_from(changed("space/x/low", -2) | {"seed": 1}))
    assert "seed" not in str(caught.value)


def test_the_order_of_parameters_is_part_of_the_space() -> None:
    space = STUDY["space"]
    with pytest.raises(StudyConflict, match="space: the order differs: x, kind, n -> kind, n, x"):
        compare(spec(), spec(space={name: space[name] for name in ("kind", "n", "x")}))


def test_choices_that_python_calls_equal_are_not_the_same() -> None:
    def choices(value: Any) -> StudySpec:
        return spec(space={"c": {"type": "choice", "choices": ["a", value]}})

    with pytest.raises(StudyConflict, match=r'space.c.choices: \["a", 1\] -> \["a", true\]'):
        compare(choices(1), choices(True))


# -- stop rules ------------------------------------------------------------------------------------------------------


def trial(number: int, loss: float | None = None, **facts: Any) -> Trial:
    state = facts.pop("state", TrialState.COMPLETE if loss is not None else TrialState.FAILED)
    return Trial(number, facts.pop("config", {"x": number / 100, "kind": "a"}), state, loss, **facts)


RUNNING = trial(2, state=TrialState.RUNNING)


@pytest.mark.parametrize(
    ("stop", "history", "minutes", "reason"),
    [
        ({"trials": 2}, [trial(0, 1.0)], 0, None),
        ({"trials": 2}, [trial(0, 1.0), trial(1, 1.0)], 0, "all 2 trials are done"),
        ({"trials": 2}, [trial(0), trial(1)], 0, "all 2 trials are done"),
        ({"trials": 3}, [trial(0), trial(1), RUNNING], 0, "all 3 trials are started"),
        ({"trials": 3}, [trial(0), trial(1), replace(RUNNING, outside={"x": "far"})], 0, "all 3 trials are started"),
        ({"trials": 2}, [trial(5, 1.0)], 0, "all 2 trials are done"),
        ({"trials": 1}, [trial(0, 1.0)], 0, "the only trial is done"),
        ({"trials": 1}, [trial(0, 1.0), trial(1), trial(2, 1.0)], 0, "all 3 trials are done"),
        ({"minutes": 2}, [], 1.9, None),
        ({"minutes": 2}, [], 2.0, "2 minutes are over"),
        ({"target": 0.5}, [], 0, None),
        ({"target": 0.5}, [trial(0, 0.51)], 0, None),
        ({"target": 0.5}, [trial(0, 0.5)], 0, "loss reached the target 0.5"),
        ({"target": 0.5}, [trial(0, 0.1), trial(1, 9.0)], 0, "loss reached the target 0.5"),
        ({"no_improvement": 2}, [], 0, None),
        ({"no_improvement": 2}, [trial(0, 1.0), trial(1, 2.0)], 0, None),
        ({"no_improvement": 2}, [trial(0, 1.0), trial(1, 2.0), trial(2, 1.0)], 0, "2 trials without improvement"),
        ({"no_improvement": 2}, [trial(0, 1.0), trial(1), trial(2), trial(3)], 0, None),
        ({"no_improvement": 2}, [trial(0, 1.0), trial(1, 2.0), RUNNING], 0, None),
        ({"trials": 9, "minutes": 2, "target": 0.0}, [trial(0, 1.0)], 3, "2 minutes are over"),
    ],
)
def test_stop_rules(stop: dict[str, Any], history: list[Trial], minutes: float, reason: str | None) -> None:
    assert spec(stop=stop).stop_reason(History(history), minutes) == reason


@pytest.mark.parametrize(("value", "reason"), [(0.89, None), (0.9, "loss reached the target 0.9")])
def test_a_target_has_the_direction_of_the_metric(value: float, reason: str | None) -> None:
    study = spec(direction="maximize", stop={"target": 0.9})
    assert study.stop_reason(History([trial(0, study.loss(value))]), 0) == reason


# -- proposals -------------------------------------------------------------------------------------------------------


def configs(proposals: Any) -> list[Mapping[str, Any]]:
    return [proposal.config for proposal in proposals]


FIRST = [{"x": 0, "kind": "a"}, {"kind": "b", "n": 3.0, "x": 1}]


def test_first_comes_first_with_the_types_of_the_space() -> None:
    proposals = spec(first=FIRST).propose(History(), 3)
    assert repr(configs(proposals[:2])) == "[{'x': 0.0, 'kind': 'a'}, {'x': 1.0, 'kind': 'b', 'n': 3}]"
    assert [proposal.notes.get("strategy") for proposal in proposals] == ["first", "first", None]


def test_first_is_not_repeated_whoever_tried_it() -> None:
    study = spec(first=FIRST)
    history = History([trial(0, config=FIRST[0])])
    assert configs(study.propose(history, 1)) == [FIRST[1]]
    assert len({proposal.identity for proposal in study.propose(History(), 4)}) == 4


def test_a_slot_a_time_makes_no_difference() -> None:
    study = spec(first=FIRST)
    history = History()
    for _ in range(4):
        history = history.with_pending(study.propose(history, 1))
    assert configs(history) == configs(study.propose(History(), 4))


def test_the_strategy_sees_first_as_pending() -> None:
    alone = spec(strategy="random").strategy.make()
    study = spec(strategy="random", first=FIRST[:1])
    expected = alone.propose(
        study.search_space, History().with_pending(study.propose(History(), 1)), 2, seed=study.seed
    )
    assert configs(study.propose(History(), 3)[1:]) == configs(expected)


def test_numbers_given_out_and_deleted_are_not_given_out_again() -> None:
    study = spec(strategy="random")
    gone = History([trial(0, 1.0)], next_number=5)
    direct = study.strategy.make().propose(study.search_space, gone, 2, seed=study.seed)
    assert configs(study.propose(gone, 2)) == configs(direct)


LOST = {"lost": "died"}
STOPPED = {"lost": "interrupted"}


@pytest.mark.parametrize(
    ("rerun_lost", "history", "expected"),
    [
        (0, [trial(0, notes=LOST)], []),
        (0, [trial(0, notes=STOPPED)], []),
        (1, [trial(0, notes=STOPPED | {"retry_of": "9", "attempt": "1"})], [(0, 1)]),
        (2, [trial(0, notes=STOPPED)], [(0, 0)]),
        (1, [trial(0, notes=LOST)], [(0, 1)]),
        (1, [trial(0)], []),
        (1, [trial(0, 1.0, notes=LOST)], []),
        (1, [trial(0, notes=LOST), trial(1, notes=LOST)], [(0, 1), (1, 1)]),
        (1, [trial(0, notes=LOST), trial(1, 1.0, notes={"retry_of": "0", "attempt": "1"})], []),
        (1, [trial(0, notes=LOST), trial(2, state=TrialState.RUNNING, notes={"retry_of": "0", "attempt": "1"})], []),
        (1, [trial(0, notes=LOST), trial(1, notes=LOST | {"retry_of": "0", "attempt": "1"})], []),
        (2, [trial(0, notes=LOST), trial(1, notes=LOST | {"retry_of": "0", "attempt": "1"})], [(1, 2)]),
        (2, [trial(0, notes=LOST), trial(1, notes={"retry_of": "0", "attempt": "1"})], []),
    ],
)
def test_lost_trials_come_again_as_often_as_they_may(
    rerun_lost: int, history: list[Trial], expected: list[tuple[int, int]]
) -> None:
    proposals = spec(rerun_lost=rerun_lost).propose(History(history), 3)
    again = [proposal for proposal in proposals if proposal.notes.get("strategy") == "retry"]
    assert [(proposal.notes["retry_of"], proposal.notes["attempt"]) for proposal in again] == expected
    assert proposals[: len(again)] == again
    by_number = {trial.number: trial for trial in history}
    assert [identity(proposal.config) for proposal in again] == [by_number[n].identity for n, _ in expected]
    assert len(proposals) == 3


def test_a_retry_keeps_fidelity_and_parent_and_fills_the_first_slot() -> None:
    lost = replace(trial(3, notes=LOST), fidelity=9.0, parent=1)
    [proposal] = spec(first=FIRST).propose(History([lost]), 1)
    assert (proposal.config, proposal.fidelity, proposal.parent) == (lost.config, 9.0, 1)


def test_a_trial_pending_as_a_retry_is_not_taken_up_twice() -> None:
    study = spec()
    history = History([trial(0, notes=LOST)])
    history = history.with_pending(study.propose(history, 1))
    assert study.propose(history, 1)[0].notes.get("strategy") != "retry"


@given(
    deaths=st.lists(st.sampled_from(["died", "interrupted", "fails", "ends", "ends", "ends"]), max_size=60),
    parallel=st.integers(1, 4),
    rerun_lost=st.integers(0, 2),
)
def test_a_study_ends_with_as_many_trials_as_it_asked_for_whatever_dies(
    deaths: list[str], parallel: int, rerun_lost: int
) -> None:
    """A flow that starts trials as the loop does; each ends in the way that is drawn for it, the last ones well."""
    study = spec(stop={"trials": 8}, parallel=parallel, rerun_lost=rerun_lost, strategy="random")
    history, fates = History(), iter(deaths)
    while study.stop_reason(history, 0.0) is None or history.running:
        if study.stop_reason(history, 0.0) is None:
            free = min(parallel - len(history.running), 8 - study.started(history))
            history = history.with_pending(study.propose(history, free))
            assert study.started(history) <= 8
        fate, running = next(fates, "ends"), history.running[0]
        state = TrialState.COMPLETE if fate == "ends" else TrialState.FAILED
        notes = {**running.notes, "lost": fate} if fate in ("died", "interrupted") else running.notes
        ended = replace(running, state=state, loss=0.5 if fate == "ends" else None, notes=notes)
        history = History([ended if each.number == ended.number else each for each in history])
    exhausted = [each for each in history.lost if each.number not in history.retaken]
    failed = [each for each in history.failed if each not in history.lost]
    assert study.started(history) == study.ended(history) == 8
    assert len(history.complete) == 8 - len(failed) - len(exhausted)
    assert all(rerun_lost == 0 or int(str(each.notes["attempt"])) == rerun_lost for each in exhausted)
    assert all(each.notes["lost"] == "died" for each in exhausted) or rerun_lost == 0
    tried = [each.identity for each in history if "retry_of" not in each.notes]
    assert len(set(tried)) == len(tried)


def test_what_is_run_again_counts_once_and_the_strategy_does_not_see_it_as_a_failure() -> None:
    study = spec(stop={"trials": 2}, strategy="random", fidelity=FIDELITY)
    lost = trial(0, fidelity=27.0, config={"x": 0.5, "kind": "a"}, notes=LOST)
    assert study.stop_reason(History([lost, trial(1, 1.0, fidelity=27.0)]), 0.0) is None  # it is due
    again = replace(lost, number=2, state=TrialState.COMPLETE, loss=0.5, notes={"retry_of": "0", "attempt": "1"})
    history = History([lost, trial(1, 1.0, fidelity=27.0), again])
    assert study.stop_reason(history, 0.0) == "all 2 trials are done"
    assert (study.started(history), study.ended(history), study.spent(history)) == (2, 2, 2.0)
    assert [each.number for each in history.without_retaken()] == [1, 2]
    counts = "2 of 2 trials done  |  0 running  |  1 failed (1 of them lost and"
    assert status_line(study, history, 0.0).startswith(counts)
    more = spec(stop={"trials": "+2"}, strategy="random", fidelity=FIDELITY)
    assert more.with_total_trials(study, more.started(history), True)[0].stop.trials == 4
    off = spec(stop={"trials": 2}, strategy="random", fidelity=FIDELITY, rerun_lost=0)
    assert off.started(History([lost, trial(1, 1.0, fidelity=27.0)])) == 2


def test_a_study_stored_without_the_key_goes_on_with_the_new_rule() -> None:
    stored = spec().stored()
    del stored["rerun_lost"]
    assert study_from(stored).rerun_lost == 2
    assert compare(study_from(stored), spec()) == []
    assert compare(study_from(stored), spec(rerun_lost=0)) == ["rerun_lost: 2 -> 0"]


def test_a_retry_stays_on_the_rung_of_its_bracket() -> None:
    lost = trial(3, notes=LOST | {"bracket": "1", "rung": "2", "acquisition": "0.5"})
    [proposal] = spec().propose(History([lost]), 1)
    assert proposal.notes == {"strategy": "retry", "retry_of": 3, "attempt": 1, "bracket": "1", "rung": "2"}


def test_a_strategy_that_knows_no_fidelity_trains_to_the_end() -> None:
    proposals = spec(fidelity=FIDELITY, strategy="random", first=FIRST).propose(History(), 4)
    assert [proposal.fidelity for proposal in proposals] == [27.0] * 4
    assert [proposal.fidelity for proposal in spec(strategy="random").propose(History(), 2)] == [None] * 2


def test_first_begins_at_the_lowest_level_where_the_strategy_promotes() -> None:
    study = spec(fidelity=FIDELITY, strategy="hyperband", first=FIRST)
    proposals = study.propose(History(), len(FIRST) + 1)
    assert [proposal.fidelity for proposal in proposals] == [1.0] * (len(FIRST) + 1)
    assert [proposal.notes.get("strategy") for proposal in proposals] == ["first"] * len(FIRST) + [None]


def test_no_improvement_waits_for_the_full_training() -> None:
    study = spec(fidelity=FIDELITY, strategy="hyperband", stop={"no_improvement": 2})
    cheap = [trial(i, float(i), fidelity=1.0) for i in range(5)]
    assert study.stop_reason(History(cheap), 0.0) is None
    full = [trial(5, 1.0, fidelity=27.0), trial(6, 0.1, fidelity=9.0), trial(7, 2.0, fidelity=27.0)]
    assert study.stop_reason(History(cheap + full), 0.0) is None
    assert study.stop_reason(History([*cheap, *full, trial(8, 3.0, fidelity=27.0)]), 0.0)


def test_full_trainings_are_counted_by_what_they_cost() -> None:
    study = spec(fidelity=FIDELITY, strategy="hyperband", stop={"full_trainings": 2})
    yes, no = {"continued": "yes: trial 0"}, {"continued": "no: there is no checkpoint"}
    trials = [trial(0, 1.0, fidelity=9.0), trial(1, 1.0, fidelity=27.0, parent=0, notes=yes)]
    assert History(trials).spent(study.scale) == pytest.approx(1.0)
    assert study.stop_reason(History(trials), 0.0) is None
    scratch = replace(trials[1], number=2, notes=no)
    assert History([*trials, scratch]).spent(study.scale) == pytest.approx(2.0)
    assert study.stop_reason(History([*trials, scratch]), 0.0) == "2 full trainings' worth is spent"
    running = trial(2, state=TrialState.RUNNING, fidelity=27.0, parent=0)
    assert History([trials[0], running]).spent(study.scale) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "field", "shown", "remedy"),
    [
        ({"sampler": "tpf"}, "strategy.sampler.name", "'tpf'", "did you mean 'tpe'?"),
        ({"sampler": 3}, "strategy.sampler", "3 does not name a strategy", "write it as tpe"),
        ({"sampler": {"name": "tpe", "x": 1}}, "strategy.sampler.x", "'x'", "choose one of start"),
        ({"sampler": {"name": "tpe", "start": 0}}, "strategy.sampler.start", "0 is not", "correct it"),
        ({"sampler": "hyperband"}, "strategy.sampler", "chooses fidelities itself", "tpe"),
        (
            {"fidelity": {"min": 1}},
            "strategy.fidelity",
            "takes the study's fidelity",
            "give it as fidelity:",
        ),
    ],
)
def test_a_sampler_that_cannot_be(settings: dict[str, Any], field: str, shown: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        spec(fidelity=FIDELITY, strategy={"name": "asha"} | settings)
    assert caught.value.field == field
    assert shown in str(caught.value) and remedy in caught.value.remedy


ERROR = "ValueError: no /home/me/.hpo/trials/{0:04d}-a3b{0}c9de-1/input.txt for {0}e-{0} in trial {0}"


def failed(number: int, reason: str = ERROR, **facts: Any) -> Trial:
    return trial(number, state=TrialState.FAILED, reason=reason.format(number), **facts)


@pytest.mark.parametrize(
    ("trials", "settings", "last"),
    [
        ([failed(n) for n in range(3)], {}, 2),
        ([failed(n) for n in range(2)], {}, None),
        ([failed(n) for n in range(4)], {"parallel": 5}, None),
        ([failed(n) for n in range(5)], {"parallel": 5}, 4),
        ([failed(0), failed(1), failed(2, "KeyError: 'x'"), failed(3)], {}, None),
        ([*(failed(n) for n in range(3)), trial(3, 1.0)], {}, None),
        ([*(failed(n) for n in range(2)), failed(2, notes=LOST)], {}, None),
        ([*(failed(n) for n in range(3)), trial(3, state=TrialState.RUNNING)], {}, 2),
        ([failed(n) for n in range(3)], {"stop": {"trials": 9, "same_error": False}}, None),
    ],
)
def test_a_study_of_nothing_but_one_error_is_told(trials: list[Trial], settings: dict[str, Any], last: Any) -> None:
    found = spec(**settings).repeated_error(History(trials))
    assert (None if found is None else found.number) == last


def test_what_failed_before_this_run_of_the_study_does_not_count() -> None:
    history = History([failed(n) for n in range(5)])
    assert spec().repeated_error(history, earlier={0, 1, 2}) is None
    assert spec().repeated_error(history, earlier={0, 1}) is not None


def test_a_stored_study_that_knows_no_rule_of_equal_errors_may_be_resumed() -> None:
    old = spec().stored()
    del old["stop"]["same_error"]
    assert not compare(study_from(old), spec())
    off = study_from(changed("stop/same_error", False))
    assert compare(study_from(old), off) == ["stop.same_error: true -> false"]
    with pytest.raises(InputError, match="no rule is given"):
        spec(stop={"same_error": True})


def test_a_stored_study_without_a_rule_to_stop_by_which_an_earlier_version_took_can_still_be_read() -> None:
    several = {"metrics": {"loss": "minimize", "ms": "minimize"}, "stop": {"target": {}}}
    document = {**{key: STUDY[key] for key in ("name", "objective", "space")}, **several}
    with pytest.raises(InputError, match="no rule is given"):
        study_from(document)
    assert study_from(document, reading=True).stop.target == {}


@pytest.mark.parametrize(
    ("section", "allowed"),
    [
        ({}, "name, experiment, objective"),
        ({"stop": {"trials": 3}}, "trials, minutes"),
        ({"repeats": {}}, "share, top"),
        ({"fidelity": {}}, "name, min, max, eta"),
        ({"final": {}}, "top, folds"),
        ({"champion": {}}, "model, seeds"),
        ({"runner": {}}, "type, address"),
        ({"resources": {}}, "gpus, cpus"),
        ({"notify": {}}, "on, url"),
        ({"notify": [{}, {}]}, "on, url"),
        ({"warm_start": [{}]}, "experiment, query"),
        ({"prior": {"x": {}}}, "around, confidence"),
        ({"space": {"stop": {"type": "float", "low": 0, "high": 1}}}, "type, low"),
        ({"space": {"choice": {"type": "choice", "choices": [1, 2]}}}, "type, choices"),
    ],
)
def test_where_a_key_is_unknown_those_of_its_section_are_named(section: dict[str, Any], allowed: str) -> None:
    def with_unknown(found: Any) -> Any:
        """What is innermost, with a key more."""
        if isinstance(found, list):
            return [*found[:-1], with_unknown(found[-1])]
        nested = {key: each for key, each in found.items() if isinstance(each, dict | list) and key != "choices"}
        inner = {key: with_unknown(each) for key, each in nested.items()}
        return {**found, **(inner or {"zzz": 1})}

    with pytest.raises(InputError, match=rf"zzz: unknown key; choose one of {allowed}"):
        study_from(STUDY | with_unknown(section))
