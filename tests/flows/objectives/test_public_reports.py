"""Public bug reports of other tools, tried on this one: those that failed here, and a few whose kind is worth a guard.

Each test names its report as ``owner/repository#number`` on GitHub.
"""

from __future__ import annotations

import datetime
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import InputError
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.store import Dataset
from hpo_core.lineage.series import open_current
from hpo_core.lineage.warm_start import NotImportable, fitting_config
from hpo_core.selection.evaluation import Fold
from hpo_core.space.parameters import Boolean, Choice, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.make import STRATEGIES, make_strategy
from hpo_core.study.file import study_from
from hpo_core.study.names import MAX_NAME_LENGTH
from hpo_core.study.spec import StudySpec
from hpo_flows.cli.schedules import Deployed, Plan, serve
from hpo_flows.keras.space.exploration import explore
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training.fit_arguments import FitArguments, write
from hpo_flows.keras.tuner.oracles import _grid_size
from hpo_flows.objectives.metrics import classification_metrics, log_pictures, regression_metrics
from hpo_flows.objectives.splits import split
from hpo_flows.reports.notify import post
from tests.installed import HERE
from tests.memory_store import MemoryStore

SAMPLERS = sorted(name for name in HERE if not STRATEGIES[name].chooses_fidelity and name != "grid")


def spec_of(space: dict[str, Any], **changes: Any) -> StudySpec:
    data = {"name": "s", "objective": "m:f", "metric": "loss", "direction": "minimize", "stop": {"trials": 9}}
    return study_from({**data, "space": space, **changes})


def left_of(space: SearchSpace, strategy: Strategy) -> int:
    """How many configurations there are, of which the strategy finds the last two, and then no more."""
    every = list(space.enumerate(feasible=True))
    tried = [Trial(i, config, TrialState.COMPLETE, float(i)) for i, config in enumerate(every[1:-1])]
    found = [proposal.config for proposal in strategy.propose(space, History(tried), 3, seed=0)]
    assert len(found) == 2 and all(config in found for config in (every[0], every[-1]))
    return len(every)


# -- spaces and strategies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SAMPLERS)
def test_a_space_of_branches_is_used_up_and_then_done(strategy: str) -> None:
    """optuna/optuna#4408, keras-team/keras-tuner#844: of branches with parameters of their own a product counts too
    many, so here the end of the space was an error after 50 seconds."""
    branches = {f"n_{kind}": Int(low=1, high=8, when={"kind": [kind]}) for kind in "abcdef"}
    space = SearchSpace({"kind": Choice(choices=list("abcdef")), **branches})
    assert space.size > 1e6
    assert left_of(space, make_strategy(strategy)) == 48


def test_a_space_that_a_constraint_leaves_little_of_is_used_up_and_then_done() -> None:
    """automl/ConfigSpace#355: 2,000 of 200 million combinations are valid."""
    space = SearchSpace({name: Int(low=1, high=50) for name in "abc"}, ("a == b", "b == c"))
    assert space.size > 1e5
    assert left_of(space, make_strategy("random")) == 50


def test_whether_a_space_is_small_is_found_out_without_going_through_a_large_one() -> None:
    """optuna/optuna#4726: a grid of 2**30 points was written out first."""
    assert not SearchSpace({f"b{i}": Boolean() for i in range(30)}).few
    assert not SearchSpace({"x": Float(low=0, high=1), "n": Int(low=0, high=2**40)}).few
    assert SearchSpace({"a": Boolean(), "b": Boolean()}, ("a == b",)).few


def test_a_grid_does_not_go_through_what_its_constraints_rule_out() -> None:
    """automl/ConfigSpace#312, optuna/optuna#4726: here ``hpo validate`` went through 5**15 combinations."""
    space = SearchSpace({f"p{i}": Float(low=0, high=1) for i in range(16)}, ("p0 > 0.9", "p1 < p2"))
    first, second = make_strategy("grid").propose(space, History(), 2, seed=0)
    assert (first.config["p0"], first.config["p1"], first.config["p2"]) == (1.0, 0.0, 0.25)
    assert second.config["p15"] == 0.25


@given(
    st.lists(st.sampled_from(["a < b", "b != c", "c == 'x' or a > 1", "d", "a + b <= 3", "not d", "c < 2"]), max_size=3)
)
def test_pruned_enumeration_is_enumeration_and_then_a_filter(constraints: list[str]) -> None:
    """automl/ConfigSpace#312: a grid with forbidden combinations."""
    parameters = {
        "a": Int(low=0, high=3),
        "c": Choice(choices=["x", "y", None]),
        "b": Int(low=0, high=3, when={"c": ["x", None]}),
        "d": Boolean(when={"b": [0, 2]}),
    }
    try:
        space = SearchSpace(parameters, constraints)
    except ValueError:
        return  # nothing is left
    assert list(space.enumerate(feasible=True)) == [c for c in space.enumerate() if space.feasible(c)]


@pytest.mark.parametrize("strategy", sorted(HERE))
def test_numpys_error_state_is_no_business_of_a_proposal(strategy: str) -> None:
    """optuna/optuna#2639, optuna/optuna#5664: an objective's module calls ``np.seterr(all="raise")``, and the sampler
    fails of an underflow."""
    changes: dict[str, Any] = {"strategy": strategy}
    if STRATEGIES[strategy].chooses_fidelity:
        changes["fidelity"] = {"name": "epochs", "min": 1, "max": 9}
    space = {"x": {"type": "float", "low": 1e-7, "high": 1, "log": True}, "k": {"type": "choice", "choices": [1, None]}}
    spec, rng = spec_of(space, **changes), np.random.default_rng(0)
    points = [spec.search_space.decode(rng.random(2)) for _ in range(20)]
    history = History([Trial(i, config, TrialState.COMPLETE, 1e-200 * i) for i, config in enumerate(points)])
    with np.errstate(all="raise"):
        proposals = spec.propose(history, 2)
        assert np.geterr()["under"] == "raise"
    assert proposals == spec.propose(history, 2) != []


def test_options_of_different_types_are_different() -> None:
    """optuna/optuna#5683, optuna/optuna#3129: 1, True and "1" were one choice, and None no choice at all."""
    choice = Choice(choices=[1, True, "1", None, "None", "", " "])
    assert [choice.decode(choice.encode(option)) for option in choice.options] == choice.options
    texts = [choice.to_string(option) for option in choice.options]
    assert [choice.from_string(text) for text in texts] == choice.options and len(set(texts)) == len(texts)
    space, rng = SearchSpace({"c": choice, "x": Float(low=0, high=1)}), np.random.default_rng(0)
    trials = [Trial(i, space.decode(rng.random(2)), TrialState.COMPLETE, float(i)) for i in range(20)]
    assert all(make_strategy(name).propose(space, History(trials), 2, seed=0) for name in ("tpe", "bayesian"))


@given(st.floats(1e-12, 1e3), st.floats(1.0, 1e9), st.floats(0, 1))
def test_a_log_scale_keeps_to_its_bounds(low: float, factor: float, u: float) -> None:
    """facebookresearch/nevergrad#1472, optuna/optuna#5457, bayesian-optimization/BayesianOptimization#6: 1e-05 became
    9.999999999999989e-06, which its own range refused."""
    parameter = Float(low=low, high=low * factor, log=True)
    for value in map(parameter.decode, (0.0, u, 1.0)):
        assert parameter.low <= value <= parameter.high and parameter.decode(parameter.encode(value)) == value


def test_a_grid_knows_the_configurations_that_were_given_first() -> None:
    """optuna/optuna#6073, optuna/optuna#5489: what was enqueued came again with the grid."""
    space = {"a": {"type": "int", "low": 0, "high": 1}, "b": {"type": "choice", "choices": [True, "1", None]}}
    spec = spec_of(space, strategy="grid", first=[{"a": 0.0, "b": True}])
    trials: list[Trial] = []
    while proposals := spec.propose(History(trials), 2):
        trials += [Trial(len(trials) + i, p.config, TrialState.RUNNING) for i, p in enumerate(proposals)]
    assert len({trial.identity for trial in trials}) == len(trials) == 6


@pytest.mark.parametrize("strategy", [name for name in sorted(STRATEGIES) if STRATEGIES[name].chooses_fidelity])
def test_what_failed_is_not_promoted(strategy: str) -> None:
    """scikit-learn/scikit-learn#20678: a halving search took NaN for the best score."""
    space, rng = SearchSpace({"x": Float(low=0, high=1)}), np.random.default_rng(0)
    promoting, trials = make_strategy(strategy, {}, Fidelity("epochs", 1, 9, 3)), list[Trial]()
    for number in range(80):
        (found,) = promoting.propose(space, History(trials), 1, seed=0)
        assert found.parent is None or trials[found.parent].state is TrialState.COMPLETE
        loss = None if rng.random() < 0.4 else float(found.config["x"] or 0)
        state = TrialState.FAILED if loss is None else TrialState.COMPLETE
        trials.append(Trial(number, found.config, state, loss, found.fidelity, found.parent, found.notes))
    assert len({(trial.identity, trial.fidelity) for trial in trials}) == 80


# -- past runs, names -----------------------------------------------------------------------------------------------


def test_a_past_run_may_write_a_value_as_another_tool_does() -> None:
    """hyperopt/hyperopt#788, hyperopt/hyperopt#253: 16 is logged as 16.0, and by others True as true."""
    space = SearchSpace(
        {
            "units": Choice(choices=[16, 32, "64.0"]),
            "bias": Boolean(),
            "rate": Ordinal(choices=[1e-5, 0.1]),
            "decay": Choice(choices=[None, 0.5]),
        }
    )
    params = {"units": "16.0", "bias": "true", "rate": "0.00001", "decay": "null"}
    assert fitting_config(space, params) == {"units": 16, "bias": True, "rate": 1e-5, "decay": None}
    assert fitting_config(space, {**params, "units": "64.0"})["units"] == "64.0"
    for wrong in ({"units": "16.5"}, {"units": "64"}, {"bias": "1"}, {"rate": "nan"}, {"decay": "no"}):
        with pytest.raises(NotImportable, match="is none of its choices"):
            fitting_config(space, {**params, **wrong})


@pytest.mark.parametrize("length", [MAX_NAME_LENGTH, MAX_NAME_LENGTH - 5, 20])
def test_a_series_of_a_long_name_goes_on_when_its_data_change(length: int) -> None:
    """kubeflow/katib#2454: the name was fine until something was put behind it; here, the date of the second study."""
    spec = spec_of({"x": {"type": "float", "low": 0, "high": 1}}, name="n" * length, data="m:d")
    store, day = MemoryStore(), datetime.date(2026, 3, 29)
    ledgers = [open_current(store, spec, Dataset("rows", str(i), {}, {}), today=day) for i in range(3)]
    names = [ledger.spec.name for ledger in ledgers]
    assert len(set(names)) == 3 and all(len(name) <= MAX_NAME_LENGTH for name in names)
    assert [name[-13:].lstrip("n") for name in names[1:]] == ["-2026-03-29", "-2026-03-29-2"]
    assert open_current(store, spec, Dataset("rows", "2", {}, {})).spec.name == names[2]


@pytest.mark.parametrize("name", ["train.py", "wine-2.0"])
def test_a_study_is_not_served_under_another_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PrefectHQ/prefect#17446: a deployment's name was taken for a path, and lost what follows its last dot."""
    monkeypatch.chdir(tmp_path)
    Path("wine-2.0").touch()
    with pytest.raises(InputError, match=r"Prefect takes .* for a file"):
        serve(Deployed("study.yaml", tmp_path, name, Plan(every=60)))


# -- rows and scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [list, np.array])
def test_a_mask_names_the_rows_where_it_is_true(make: Callable[[Any], Any]) -> None:
    """automl/auto-sklearn#1274: a mask was taken for row numbers, so that rows 0 and 1 were all that was tested on."""
    train, test = split(10, phase="test", test=make([False] * 6 + [True] * 4))
    assert train.tolist() == [0, 1, 2, 3, 4, 5] and test.tolist() == [6, 7, 8, 9]
    assert [rows.tolist() for rows in split(10, phase="test", test=make([9, 6]))] == [[0, 1, 2, 3, 4, 5, 7, 8], [9, 6]]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([True, False], r"the mask has shape \(2,\), and there are 10 rows"),
        ([0.2], "give a share of the rows, their numbers, or a mask"),
        ("0.2", "give a share of the rows, their numbers, or a mask"),
        ([[1, 2]], "give a share of the rows, their numbers, or a mask"),
        ([3, 3, 4], "row 3 is listed twice"),
        ([2, -1], "there are 10 rows, and it names row -1"),
        ([2, 10], "there are 10 rows, and it names row 10"),
        (True, "is not a share"),
    ],
)
def test_what_names_no_rows_is_refused(test: Any, message: str) -> None:
    """automl/auto-sklearn#1274: what is neither a share nor rows was rounded until it was rows."""
    with pytest.raises(ValueError, match=f"test: .*{message}"):
        split(10, phase="test", test=test)


def test_a_share_and_a_count_may_be_numpys() -> None:
    """automl/auto-sklearn#1274: ``np.float32(0.25)`` was taken for row 0."""
    _, test = split(np.int64(20), phase="test", test=np.float32(0.25))  # type: ignore[arg-type]
    assert len(test) == 5


def test_a_class_that_the_model_has_never_seen(fake_trial: Any) -> None:
    """scikit-learn/scikit-learn#9144, scikit-learn/scikit-learn#11777: a rare class is missing in a training fold, and
    a metric that nobody asked for failed the trial."""
    y, table = np.array(["a", "b", "c"]), np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    assert classification_metrics(y, np.array(["a", "b", "b"]), table, ["a", "b"])["accuracy"] == 2 / 3
    swapped = classification_metrics(np.array(["a", "c", "c"]), np.array(["a", "b", "b"]), table, ["a", "b"])
    assert "log_loss" not in swapped and "roc_auc" not in swapped
    alone = classification_metrics(np.array([0, 1]), np.array([0, 0]), np.array([[1.0], [1.0]]), [0])
    assert alone["accuracy"] == 0.5 and "log_loss" not in alone
    log_pictures(fake_trial, np.array([0, 1]), np.array([0, 0]), np.array([[1.0], [1.0]]), [0])
    log_pictures(fake_trial, y, np.array(["a", "b", "b"]), table, ["a", "b"])


@pytest.fixture
def fake_trial(tmp_path: Path) -> Any:
    class Trial:
        scratch = tmp_path

        def log_artifact(self, path: Path, folder: str) -> None:
            assert path.exists()

    return Trial()


def test_several_outputs_are_averaged() -> None:
    """automl/auto-sklearn#1169: predictions of several outputs had the wrong shape."""
    y = np.array([[0.0, 10.0], [1.0, 10.0], [2.0, 13.0]])
    assert regression_metrics(y, y + np.array([1.0, 3.0]))["mae"] == 2.0
    assert regression_metrics(y[:, :1], y[:, 0])["r2"] == 1.0
    with pytest.raises(ValueError):
        regression_metrics(y, y[:, 0])


@pytest.mark.parametrize("phase", ["search", "fold"])
def test_too_few_members_or_groups_are_an_error_that_says_so(phase: Any) -> None:
    """scikit-learn/scikit-learn#9381, scikit-learn/scikit-learn#10767: a class has fewer members than folds."""
    fold = Fold(0, 5) if phase == "fold" else None
    with pytest.raises(ValueError, match=r"test: the rows cannot be split so: .*least populated class"):
        split(20, phase=phase, fold=fold, stratify=[0] * 19 + [1])
    with pytest.raises(ValueError, match=r"the rows cannot be split so|number of groups"):
        split(20, phase="fold", fold=Fold(0, 5), groups=[0] * 10 + [1] * 10)


# -- Keras ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val_precision_loss", "recall_error", "val_true_error", "false_accuracy"])
def test_a_name_that_implies_both_directions_implies_none(name: str) -> None:
    """keras-team/keras#18798, keras-team/keras-tuner#117: the loss of an output called precision was maximised."""
    with pytest.raises(InputError, match="cannot be told from its name"):
        Objective.of(name)


@pytest.mark.parametrize("name", ["loss", "val_loss", "val_digits_loss", "val_output_1_loss", "loss_1"])
def test_a_loss_is_minimised_whichever_output_it_is_of(name: str) -> None:
    """keras-team/keras#18798: what is not an accuracy was minimised."""
    assert Objective.of(name).direction == "min"


def test_a_range_that_hangs_on_another_value_is_refused() -> None:
    """keras-team/keras-tuner#173, keras-team/keras-tuner#180: values came from beyond the declared range; here the
    first range that was seen, 1 to 1, stayed in force without a word."""

    def bounded(hp: Any) -> None:
        hp.Int("layers", 1, hp.Int("most", 1, 10))

    with pytest.raises(InputError, match="'layers' is declared with different settings in different builds"):
        explore(bounded)


def test_one_name_with_different_ranges_in_two_branches_is_refused() -> None:
    """keras-team/keras-tuner#173: the values of one branch were those of the other."""

    def branched(hp: Any) -> None:
        if hp.Choice("model", ["cnn", "mlp"]) == "cnn":
            hp.Int("size", 3, 5)
        else:
            hp.Int("size", 64, 128)

    with pytest.raises(InputError, match="'size' is declared with different settings in different builds"):
        explore(branched)
    preset = HyperParameters()
    preset.Int("size", 3, 128)
    assert explore(branched, preset=preset.space).space.parameters["size"] == Int(low=3, high=128)


def test_a_value_that_is_listed_twice_counts_once() -> None:
    """keras-team/keras-tuner#263: ``hp.Choice("kernel", values=[3, 3])`` is written, and runs in KerasTuner."""

    def build(hp: Any) -> None:
        hp.Choice("kernel", values=[3, 3])
        hp.Choice("units", values=[8, 16, 8.0, 4])
        hp.Choice("mixed", values=[1, "1", True, 1])

    space = explore(build).space
    assert space.parameters["kernel"].values(9) == [3]
    assert space.parameters["units"].values(9) == [8, 16, 4]
    assert space.parameters["mixed"].values(9) == [1, "1", True]


def test_values_that_are_no_scalars_are_an_error_that_names_the_parameter() -> None:
    """wandb/wandb#3467: the choices are tuples and lists."""
    with pytest.raises(InputError, match=r"hp.Choice\('size'\): \(224, 224\) is not a string"):
        explore(lambda hp: hp.Choice("size", [(224, 224), (299, 299)]))


def test_a_grid_too_large_to_be_counted_is_told_an_upper_bound() -> None:
    """dswah/pyGAM#242, optuna/optuna#4726: every point of the grid was made before the first was tried."""

    def build(hp: Any) -> None:
        for i in range(12):
            hp.Float(f"x{i}", 0, 1)

    assert _grid_size(explore(build), {"name": "grid"}, []) == 10**12


def test_a_data_set_without_an_end_is_refused(tmp_path: Path) -> None:
    """tensorflow/tensorflow#39277: ``repeat()`` ran for ever; here it would have filled the disk."""
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(np.zeros((4, 2))).batch(2).repeat()
    with pytest.raises(InputError, match="is a data set without an end"):
        write(FitArguments((endless,), {}), tmp_path)
    with pytest.raises(InputError, match="validation_data is a data set without an end"):
        write(FitArguments((), {"validation_data": endless}), tmp_path)
    assert write(FitArguments((endless.take(3),), {}), tmp_path).exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_checkpoints_of_single_epochs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """keras-team/keras-tuner#316, keras-team/keras-tuner#277: of all epochs one checkpoint was left."""
    import keras

    from hpo_flows.keras.training.trial_callbacks import own_callbacks

    given = keras.callbacks.ModelCheckpoint("runs/{epoch:02d}/model.weights.h5", save_weights_only=True)
    (placed,) = own_callbacks([given], tmp_path)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(np.zeros((4, 2)), np.zeros(4), epochs=3, callbacks=[placed.callback], verbose=0)
    assert placed.output is not None
    kept = sorted(path.relative_to(placed.output).as_posix() for path in placed.output.rglob("*.h5"))
    assert kept == [f"{epoch:02d}/model.weights.h5" for epoch in (1, 2, 3)]


# -- messages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def redirecting() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A receiver that sends whoever asks for /moved elsewhere, and what it was asked."""
    asked: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((f"POST {self.path}", self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(int(self.path[1:]))
            self.send_header("Location", "/200")
            self.end_headers()

        def do_GET(self) -> None:
            asked.append((f"GET {self.path}", b""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirected_message_is_not_taken_for_delivered(code: int, redirecting: Any) -> None:
    """psf/requests#4995: a POST that is redirected goes on as a GET without its body, and is answered well."""
    url, asked = redirecting
    with pytest.raises(HTTPError, match=str(code)):
        post(f"{url}/{code}", {"event": "finished"})
    assert [request for request, _ in asked] == [f"POST /{code}"]


def test_a_message_is_json_whatever_its_numbers(redirecting: Any) -> None:
    """optuna/optuna-dashboard#108: one infinite value, and nobody could read the rest."""
    url, asked = redirecting
    post(f"{url}/200", {"value": 0.5, "test": {"r2": math.nan, "loss": math.inf}, "runs": [-math.inf, 1]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads(asked[0][1], parse_constant=refuse)
    assert told == {"value": 0.5, "test": {"r2": None, "loss": None}, "runs": [None, 1]}
