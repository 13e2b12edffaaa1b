"""What is imported, that it stays as it is, and what strategies make of it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_core import Choice, Float, Int, SearchSpace
from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.prior import Observation, Source, align
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import FAILED, FINISHED, KILLED, Metric, Store
from hpo_core.ledger.tags import CLAIMS
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.lineage.warm_start import NotImportable, fitting_config, recall, warm_start
from hpo_core.space.configuration import identity
from hpo_core.strategies.common.transfer import CONSENSUS, SUGGESTED, suggested
from hpo_core.strategies.make import make_strategy
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger
from tests.conftest import MlflowServer
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.installed import HERE
from tests.memory_store import MemoryStore

SPACE = SearchSpace(
    {
        "rate": Float(low=1e-4, high=1.0, log=True),
        "kind": Choice(choices=["sgd", "adam"]),
        "momentum": Float(low=0, high=0.9, when={"kind": ["sgd"]}),
        "layers": Int(low=1, high=8),
    }
)


@pytest.fixture(params=["memory", "server"])
def any_store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    server: MlflowServer = request.getfixturevalue("mlflow_server")
    return connect(server.uri)


def loss(config: Mapping[str, Any]) -> float:
    return float((np.log10(config["rate"]) + 2) ** 2 + (config["layers"] - 3) ** 2 / 9 + (config["kind"] == "sgd"))


def source(seed: int = 0, how: str = "standardise", count: int = 20, scale: float = 1.0) -> Source:
    rng = np.random.default_rng(seed)
    configs = [SPACE.decode(rng.random(SPACE.dimensions)) for _ in range(count)]
    return Source(
        f"past {seed}", how, tuple(Observation(c, scale * loss(c) if i else None) for i, c in enumerate(configs))
    )


def logged(
    store: Store, experiment: str, params: Mapping[str, str], score: float | None, status: str = FINISHED, **tags: str
) -> str:
    """A run as any script would log it."""
    id = store.experiment(experiment, create=True)
    assert id is not None
    run = store.create_run(id, "by hand", {})
    store.log(run.id, [] if score is None else [Metric("score", score, 1)], params, tags)
    store.set_status(run.id, status)
    return run.id


def opened(store: Store, **changes: Any) -> Ledger:
    ledger = open_study(store, make_spec(**changes))
    warm_start(ledger)
    return ledger


# -- what fits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "config"),
    [
        ({"rate": "0.01", "kind": "adam", "layers": "3"}, {"rate": 0.01, "kind": "adam", "layers": 3}),
        ({"rate": "1e-2", "kind": "adam", "layers": "3.0", "user": "x"}, {"rate": 0.01, "kind": "adam", "layers": 3}),
        ({"rate": "1", "kind": "adam", "layers": "3", "momentum": "None"}, {"rate": 1.0, "kind": "adam", "layers": 3}),
        ({"kind": "adam", "layers": "3"}, "'rate' is missing"),
        ({"rate": "0.01", "kind": "sgd", "layers": "3"}, "'momentum' is missing"),
        ({"rate": "2", "kind": "adam", "layers": "3"}, "'rate' is out of range"),
        ({"rate": "nan", "kind": "adam", "layers": "3"}, "'rate' is out of range"),
        ({"rate": "fast", "kind": "adam", "layers": "3"}, "'rate' is not a number"),
        ({"rate": "0.1", "kind": "adam", "layers": "2.5"}, "'layers' is out of range"),
        ({"rate": "0.1", "kind": "rmsprop", "layers": "3"}, "'kind' is none of its choices"),
    ],
)
def test_params_fit_or_it_is_said_why_not(params: dict[str, str], config: dict[str, Any] | str) -> None:
    if isinstance(config, str):
        with pytest.raises(NotImportable, match=config):
            fitting_config(SPACE, params)
    else:
        assert fitting_config(SPACE, params) == config


def test_runs_of_any_origin_are_imported_and_the_study_says_which(any_store: Store) -> None:
    store = any_store
    past = f"past-{random.randrange(2**32)}"
    yesterday = open_study(store, make_spec(experiment=past, strategy="random"))
    for score in (0.1, 0.2):
        finish(yesterday, reserve(yesterday), score)
    reserve(yesterday)  # still running
    logged(store, past, {"rate": "0.5", "layers": "1"}, 7.0)
    logged(store, past, {"rate": "0.25", "layers": "1"}, None, FAILED)
    logged(store, past, {"rate": "0.5", "layers": "1"}, None)
    logged(store, past, {"rate": "5", "layers": "1"}, 1.0)
    logged(store, past, {"rate": "0.5", "layers": "1"}, 1.0, KILLED)
    logged(store, past, {"rate": "0.5", "layers": "1"}, 9.0, **{"hpo.folds_wanted": "5"})
    ledger = opened(store, warm_start=[past])
    of_study, by_hand = sorted(ledger.prior, key=lambda source: source.name != yesterday.spec.name)
    assert [o.loss for o in of_study.observations] == [-0.2, -0.1]
    assert [(o.config["rate"], o.loss) for o in by_hand.observations] == [(0.5, -7.0), (0.25, None)]
    run = store.get(ledger.study_run.id)
    assert run.tags["hpo.warm_start.report"] == (
        f"{past} (standardise): 4 of 9 runs fit; left out: "
        "1 x 'rate' is out of range, 1 x ended after some of its folds, 1 x killed, 1 x no metric 'score', 1 x running"
    )
    history = ledger.load()
    assert (len(history), history.next_number, history.incumbent, len(history.identities)) == (0, 0, None, 0)


def test_the_import_is_what_it_was_whatever_has_been_logged_since(any_store: Store) -> None:
    store = any_store
    past = f"past-{random.randrange(2**32)}"
    for i in range(5):
        logged(store, past, {"rate": f"0.{i + 1}", "layers": "1"}, float(i))
    ledger = opened(store, warm_start=[past])
    reserve(ledger)
    digest = ledger.load().digest
    logged(store, past, {"rate": "0.9", "layers": "1"}, 99.0)
    again = open_study(store, ledger.spec)
    warm_start(again)
    assert again.prior == ledger.prior
    assert again.load().digest == digest != open_study(store, ledger.spec).load().digest
    said: list[str] = []
    other = open_study(store, ledger.spec.model_copy(update={"warm_start": make_spec(warm_start=["other"]).warm_start}))
    warm_start(other, said.append)
    assert other.prior == ledger.prior
    assert "changes nothing" in said[0]


def test_tonight_begins_where_yesterday_was_best(mlflow_server: MlflowServer) -> None:
    """Two nights of one study file, in the same experiment and then by its name."""
    store, nights = connect(mlflow_server.uri), f"nights-{random.randrange(2**32)}"
    yesterday = open_study(store, make_spec(experiment=nights))
    for _ in range(8):
        trial = reserve(yesterday)
        finish(yesterday, trial, -abs(float(str(trial.config["rate"])) - 0.1))
    said: list[str] = []
    spec = make_spec(experiment=nights, warm_start=[nights], stop={"trials": 9})
    tonight = open_ledger(spec, mlflow_server.uri, on_message=said.append)
    assert said == [f"{spec.name}: warm start: {nights} (standardise): 8 of 8 runs fit"]
    for _ in range(4):
        finish(tonight, reserve(tonight), 0.5)
    resumed = open_ledger(spec, mlflow_server.uri).load()
    assert resumed.digest == tonight.load().digest
    first, *_, fourth = resumed
    assert first.identity in yesterday.load().identities
    assert (first.notes["picked"], first.notes["why"]) == (
        "warm_start",
        f"among the best of the past: {yesterday.spec.name}",
    )
    assert fourth.notes["picked"] == "quasi_random"
    assert (resumed.next_number, len(resumed.prior[0].observations)) == (4, 7)  # one of eight was a repeat


def test_flows_that_start_at_once_agree(mlflow_server: MlflowServer) -> None:
    store = connect(mlflow_server.uri)
    past = f"past-{random.randrange(2**32)}"
    for i in range(3):
        logged(store, past, {"rate": f"0.{i + 1}", "layers": "1"}, float(i))
    spec, found = make_spec(warm_start=[past]), []

    def flow(i: int) -> None:
        mine = connect(mlflow_server.uri)
        logged(mine, past, {"rate": f"0.7{i}", "layers": "1"}, 0.5)  # so that each finds something else
        ledger = open_study(mine, spec)
        warm_start(ledger)
        found.append(ledger.prior)

    threads = [threading.Thread(target=flow, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(prior == found[0] for prior in found)
    assert len(found[0][0].observations) >= 4


@pytest.mark.parametrize("stage", range(12))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_flow_killed_at_any_request_leaves_an_import_that_the_next_can_use(stage: int, when: str) -> None:
    class Died(Exception):
        pass

    store, count = MemoryStore(), iter(range(10**9))
    logged(store, "past", {"rate": "0.5", "layers": "1"}, 1.0)
    spec = make_spec(warm_start=["past"])
    ledger = open_study(store, spec)

    def die(operation: str) -> None:
        if next(count) == stage:
            raise Died

    setattr(store, when, die)
    try:
        warm_start(ledger)
    except Died:
        pass
    setattr(store, when, lambda operation: None)
    decided = recall(open_study(store, spec))
    logged(store, "past", {"rate": "0.7", "layers": "1"}, 2.0)
    resumed = open_study(store, spec)
    warm_start(resumed)
    assert len(resumed.prior[0].observations) == (2 if decided is None else 1)
    assert resumed.load() == find_and_warm(store, spec.name).load()


def find_and_warm(store: Store, name: str) -> Ledger:
    ledger = find_study(store, name)
    warm_start(ledger)
    return ledger


def test_what_cannot_be_imported_is_one_clear_error(mlflow_server: MlflowServer) -> None:
    store = connect(mlflow_server.uri)
    with pytest.raises(InputError, match="no experiment named 'nowhere'"):
        opened(store, warm_start=["nowhere"])
    with pytest.raises(InputError, match="MLflow does not understand the query"):
        opened(store, warm_start=["params.rate = '1'", "metrics.score >"])
    with pytest.raises(InputError, match="neither experiment nor query"):
        make_spec(warm_start=[{"align": "rank"}])
    with pytest.raises(InputError, match="did you mean 'experiment'"):
        make_spec(warm_start=[{"experimnt": "x"}])


def test_a_query_finds_runs_in_all_experiments_or_in_one(mlflow_server: MlflowServer) -> None:
    store, mark = connect(mlflow_server.uri), f"{random.randrange(2**32)}"
    for experiment, score in (("one", 1.0), ("two", 2.0), ("two", 5.0)):
        logged(store, f"{experiment}-{mark}", {"rate": "0.5", "layers": "1", "mark": mark}, score)
    both = opened(store, warm_start=[f"params.mark = '{mark}' and metrics.score < 4"])
    assert sorted(o.loss for s in both.prior for o in s.observations if o.loss is not None) == [-2.0, -1.0]
    assert len(both.prior) == 2  # two experiments are two scales
    one = opened(store, warm_start=[{"experiment": f"two-{mark}", "query": "metrics.score < 4", "align": "none"}])
    assert [(s.align, [o.loss for o in s.observations]) for s in one.prior] == [("none", [-2.0])]


def test_nothing_that_fits_and_a_strategy_that_learns_nothing_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    logged(store, "past", {"layers": "1"}, 1.0)
    with caplog.at_level(logging.WARNING, logger="hpo"):
        assert opened(store, warm_start=["past"]).prior == ()
        assert "nothing that warm_start names fits" in caplog.text
        logged(store, "past", {"rate": "0.5", "layers": "1"}, 1.0)
        opened(store, warm_start=["past"], strategy="random")
    assert "the strategy 'random' makes no use" in caplog.text


def test_an_import_that_was_deleted_or_damaged_is_told() -> None:
    store = MemoryStore()
    logged(store, "past", {"rate": "0.5", "layers": "1"}, 1.0)
    ledger = opened(store, warm_start=["past"])
    id = store.get(ledger.claims_run).params["warm_start"]
    store.log(id, [], {}, {"hpo.import": "damaged"})
    with pytest.raises(InputError, match=f"run {id} in experiment {CLAIMS}"):
        find_and_warm(store, ledger.spec.name)


# -- what is made of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["standardise", "rank"])
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), scale=st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=50)
def test_aligned_losses_keep_their_order(how: str, values: list[float], scale: float) -> None:
    losses = np.array([*values, np.inf]) * scale
    aligned = align(losses, how)
    assert np.isfinite(aligned).all()
    order = np.argsort(losses[:-1], kind="stable")
    assert (np.diff(aligned[:-1][order]) >= -1e-9).all()
    assert aligned[-1] == aligned[:-1].max()


def test_alignment_forgets_the_scale() -> None:
    for how in ("standardise", "rank"):
        np.testing.assert_allclose(source(0, how).aligned, source(0, how, scale=250.0).aligned, atol=1e-6)


def test_the_first_suggestion_is_what_all_sources_expect_to_do_well() -> None:
    found = suggested(SPACE, [source(seed, scale=10.0**seed) for seed in range(3)])
    assert found[0].notes["warm_start"] == CONSENSUS
    assert {p.notes["warm_start"] for p in found[1:]} <= {f"past {seed}" for seed in range(3)}
    assert len(found) == SUGGESTED == len({p.identity for p in found})
    assert (
        loss(found[0].config) < min(np.median([loss(o.config) for o in source(s).observations]) for s in range(3)) / 2
    )
    assert suggested(SPACE, []) == suggested(SPACE, [source(count=2)]) == []


@pytest.mark.parametrize("strategy", HERE)
@pytest.mark.parametrize("how", ["standardise", "none"])
def test_the_laws_hold_with_a_past(strategy: str, how: str, seed: int) -> None:
    """Determinism, order, purity, resume and batch; and the past is not a trial of the study."""
    made = make_strategy(strategy)
    prior = (source(1, how), source(2, how))
    shuffled = tuple(
        replace(s, observations=tuple(random.Random(seed).sample(s.observations, 20))) for s in prior[::-1]
    )

    def grow(history: History, length: int) -> History:
        while len(history) < length:
            (proposal,) = made.propose(SPACE, history, 1, seed=seed)
            done = Trial(
                len(history), proposal.config, TrialState.COMPLETE, loss(proposal.config), notes=proposal.notes
            )
            history = History((*history, done), prior=history.prior)
        return history

    whole = grow(History(prior=prior), 8)
    before = repr((whole, whole.digest))
    assert grow(History(whole.trials[:4], prior=prior), 8).identities == whole.identities
    pair = made.propose(SPACE, whole, 2, seed=seed)
    assert repr((whole, whole.digest)) == before
    assert History(whole, prior=shuffled).digest == whole.digest != History(whole).digest
    singles, history = [], whole
    for _ in range(2):
        singles += made.propose(SPACE, history, 1, seed=seed)
        history = whole.with_pending(singles)
    assert [p.identity for p in singles] == [p.identity for p in pair]
    cold = make_strategy(strategy).propose(SPACE, History(), 3, seed=seed)
    warm = made.propose(SPACE, History(prior=prior), 3, seed=seed)
    assert (identity(cold[0].config) != identity(warm[0].config)) == made.learns_from_prior()
    assert len({p.identity for p in warm}) == 3


def test_losses_of_the_same_data_are_modelled_like_trials() -> None:
    trials = [
        Trial(i, o.config, TrialState.COMPLETE, o.loss) for i, o in enumerate(source(5, count=9).observations) if o.loss
    ]
    notes = [
        make_strategy("bayesian").propose(SPACE, History(trials, prior=prior), 1, seed=0)[0].notes
        for prior in ([], [source(6, "standardise")], [source(6, "none")])
    ]
    assert notes[0] == notes[1] != notes[2]


# -- several metrics -------------------------------------------------------------------------------------------------


def of_two(*losses: tuple[float, float], how: str = "standardise") -> Source:
    """Past observations with two losses, of learning rates that rise."""
    configs = ({"rate": 10.0 ** -(i / 4), "kind": "adam", "layers": 1} for i in range(len(losses)))
    return Source("both", how, tuple(Observation(c, pair[0], pair) for c, pair in zip(configs, losses, strict=True)))


BOTH = of_two((0.0, 9.0), (1.0, 4.0), (2.0, 2.0), (4.0, 1.0), (9.0, 0.0), (9.0, 9.0), (5.0, 6.0))


def test_a_source_of_several_objectives_is_sorted_front_by_front() -> None:
    assert {o.losses for o in BOTH.observations[:2]} == {(0.0, 9.0), (9.0, 0.0)}
    assert [o.losses for o in BOTH.observations[5:]] == [(5.0, 6.0), (9.0, 9.0)]
    assert [o.loss for o in BOTH.by(1).observations] == [0.0, 1.0, 2.0, 4.0, 6.0, 9.0, 9.0]
    assert BOTH.by(1).objectives == 1 and source().by(0) == source()
    shuffled = Source("both", "standardise", tuple(reversed(BOTH.observations)))
    assert shuffled == BOTH and shuffled.fingerprint == BOTH.fingerprint != BOTH.by(0).fingerprint


@pytest.mark.parametrize("strategy", ["bayesian", "tpe"])
@pytest.mark.parametrize("how", ["standardise", "none"])
def test_a_study_with_several_metrics_begins_with_a_compromise_and_the_ends_of_the_past(
    strategy: str, how: str
) -> None:
    past = replace(BOTH, align=how)
    first = make_strategy(strategy).propose(SPACE, History(prior=[past]), 3, seed=0)
    found = {identity(o.config): o.losses for o in past.observations}
    middle, *ends = [found[each.identity] for each in first]
    assert middle in {(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)} and set(ends) == {(0.0, 9.0), (9.0, 0.0)}
    trials = [
        Trial(i, SPACE.decode(row), TrialState.COMPLETE, row[0], losses=(row[0], 1 - row[0]))
        for i, row in enumerate(np.random.default_rng(0).random((12, SPACE.dimensions)))
    ]
    later = make_strategy(strategy).propose(SPACE, History(trials, prior=[past]), 1, seed=0)
    assert later == make_strategy(strategy).propose(SPACE, History(reversed(trials), prior=[past]), 1, seed=0)


def test_past_runs_with_all_metrics_are_imported_and_stay() -> None:
    store, metrics = MemoryStore(), {"score": "maximize", "ms": "minimize"}
    experiment = store.experiment("past", create=True)
    assert experiment is not None
    for i, ms in enumerate((3.0, 1.0, None)):
        run = store.create_run(experiment, "by hand", {})
        logged_metrics = [Metric("score", 0.5 + i, 1), *([] if ms is None else [Metric("ms", ms, 1)])]
        store.log(run.id, logged_metrics, {"rate": "0.1", "layers": ["1", "0.5", "1"][i]}, {})
        store.set_status(run.id, FINISHED)
    changes = {"metric": "", "direction": "", "metrics": metrics, "warm_start": ["past"]}
    ledger = opened(store, **changes)
    (imported,) = ledger.prior
    assert {o.losses for o in imported.observations} == {(-0.5, 3.0), (-1.5, 1.0)}
    known = recall(ledger)
    assert known is not None and known.sources == ledger.prior
    assert known.report == ("past (standardise): 2 of 3 runs fit; left out: 1 x no metric 'ms'",)
