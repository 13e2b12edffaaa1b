"""The agent: trains trials on another machine, in a Dask or Ray worker or in the flow run of a Prefect deployment.

The agent receives two run ids and MLflow's address (:class:`TrialRequest`) and reads the rest from MLflow. It opens the
study and takes over the trial's run, so that the lease and the owner in its tags are the agent's. Then it does what a
task in the flow's own process does (:func:`hpo_flows.trials.evaluate.evaluate`) and reports to MLflow itself; the flow
only waits.

The agent keeps a :class:`RemoteSession` per study from trial to trial, because importing TensorFlow takes longer than
many trainings, and closes it once no trial has come for a while.
"""

from __future__ import annotations

import logging

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from hpo_flows.trials.evaluate import evaluate
from hpo_flows.trials.remote.remote_session import remote_session
from hpo_flows.trials.remote.request import URI, TrialRequest
from hpo_flows.trials.task import name_task, should_retry, tag_task, this_task

log = logging.getLogger("hpo")


@task(
    name="trial", task_run_name="{name}", retry_condition_fn=should_retry, cache_policy=NO_CACHE, persist_result=False
)
def train_remotely(name: str, request: TrialRequest) -> dict[str, float]:
    """Train one trial on this machine and report it. A retry continues the same MLflow run, in this process.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        request: The trial.

    Raises:
        TrialFailed: The trial returned no value; its run says why.
        TrialCancelled: Its flow was stopped; its run says so.
        AlreadyStarted: Another process started it before and is gone.
        TrackingError: MLflow cannot be reached from here.
    """
    attempt, tags = this_task()
    with remote_session(request) as remote:
        training = remote.begin(request)
        spec = remote.session.ledger.spec
        tag_task(spec)
        remote.check(training)  # after begin, so that a failed check ends a run that is this process's
        metrics = evaluate(remote.session, training, attempt, tags)
        name_task(name, spec, metrics)
        return metrics


@flow(name="trial", flow_run_name="{name}", persist_result=False)
def deployed_trial(
    name: str, study_run: str, run: str, owner: str, spec_digest: str, tracking_uri: str, retries: int
) -> None:
    """Train one trial as the flow run of a deployment.

    Prefect stores the parameters in its database, so no password may be among them.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        study_run, run, owner, spec_digest: As in :class:`TrialRequest`.
        tracking_uri: Where MLflow is, without user and password.
        retries: Attempts after the first, in the same MLflow run.
    """
    request = TrialRequest(study_run, run, owner, spec_digest, {URI: tracking_uri})
    train_remotely.with_options(retries=retries)(name, request)
