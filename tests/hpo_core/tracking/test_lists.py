"""What MLflow's lists show first: the user's experiments, by the requests that its pages send."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from hpo_core.ledger.tags import CLAIMS
from hpo_core.lineage.opening import open_study
from hpo_core.tracking.connection import connect
from tests.conftest import MlflowServer
from tests.hpo_core.ledger.test_ledger import make_spec

NEWEST = ["last_update_time DESC"]
"""The order of both lists."""

LISTED = "tags.`mlflow.experiment.isGateway` IS NULL"
"""The filter of the page of experiments."""


def test_the_page_of_experiments_shows_the_users_alone(mlflow_server: MlflowServer) -> None:
    spec = make_spec()
    open_study(connect(mlflow_server.uri), spec)
    shown = MlflowClient(mlflow_server.uri).search_experiments(filter_string=LISTED, order_by=NEWEST)
    assert shown[0].name == spec.experiment
    assert CLAIMS not in {each.name for each in shown}


def test_the_home_page_shows_the_users_above_the_claims(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    names = []
    for _ in range(2):
        spec = make_spec()
        open_study(store, spec)
        names.insert(0, spec.experiment)
    shown = [each.name for each in MlflowClient(store.uri).search_experiments(order_by=NEWEST)]
    assert shown[:3] == [*names, CLAIMS]


def test_claims_of_an_earlier_version_leave_the_list_with_the_next_study(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(store.uri)
    client.create_experiment("of the user")
    client.create_experiment(CLAIMS)
    assert client.search_experiments(filter_string=LISTED, order_by=NEWEST)[0].name == CLAIMS
    open_study(store, make_spec())
    assert CLAIMS not in {each.name for each in client.search_experiments(filter_string=LISTED)}
