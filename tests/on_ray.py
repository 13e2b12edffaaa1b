"""A study on a Ray head of its own, whose worker process is killed in the middle; run by ``test_runners.py``."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from hpo_core.history.trial import TrialState
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger, run
from hpo_flows.objectives.reference import Objective
from tests.conftest import MlflowServer
from tests.studies import ROOT, check_logged_by_mlflow, gated, let_pass, make_spec, tune


def kill_one() -> None:
    ledger = find_study(connect(), "on-ray")
    while True:
        time.sleep(0.1)
        for trial in ledger.load().running:
            pid = int(trial.owner.split("/")[1])
            if pid != os.getpid() and trial.number >= 2:
                os.kill(pid, signal.SIGKILL)
                let_pass(Path.cwd())
                return


def main() -> None:
    server = MlflowServer(Path.cwd())
    server.start()
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
        spec = make_spec(
            "gated",
            name="on-ray",
            space=gated(Path.cwd(), 2),
            runner={"type": "ray", "address": cluster.address},
            resources={"cpus": 1},
            stop={"trials": 6},
        )
        ledger = open_ledger(spec)
        threading.Thread(target=kill_one, daemon=True).start()
        history = run(ledger, Objective(spec.objective, (str(ROOT),))).history
        logging = make_spec("logs_by_mlflow", name="logs", runner=spec.runner.model_dump(), stop={"trials": 3})
        logged = tune(logging)
        check_logged_by_mlflow(logged)
        assert ledger.owner not in {trial.owner for trial in logged.history}
    finally:
        if cluster is not None:
            cluster.shutdown()
        server.stop()
    states = [trial.state for trial in history]
    assert states.count(TrialState.COMPLETE) == 6 and states.count(TrialState.FAILED) == 1, list(history)
    assert history.failed[0].reason.startswith("lost: "), history.failed
    assert ledger.owner not in {trial.owner for trial in history}


if __name__ == "__main__":
    main()
