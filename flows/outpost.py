"""A trial trained away from its flow: by a worker of Dask or Ray, or by the flow run of a Prefect deployment.

Such a task is told two run ids and where MLflow is (:class:`Order`), and finds the rest there. It opens the study,
takes the trial's run over, so that the lease and the owner in its tags are this process's, and from then on does what
a task in the flow's own process does (:func:`flows.trial.evaluate`): it reports to MLflow itself, and the flow only
waits.

What a process needs to train for one study is a *post*. It is kept from trial to trial, because importing TensorFlow
takes longer than many trainings, and given up once no trial has come for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.api import home
from flows.early_stop import Rungs
from flows.final import again
from flows.objective import Objective
from flows.resources import VISIBLE, check, devices, variables
from flows.trial import MISFIT, Session, evaluate, this_task, worth_another
from flows.worker import Flag, TrialCancelled, TrialFailed, WorkerPool
from hpo_core.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.folds import evaluation_of
from hpo_core.history import History
from hpo_core.ledger import Ledger, Report, stored_spec, trial_of
from hpo_core.selection import Evaluation
from hpo_core.store import FAILED, RUNNING, Run, Store
from hpo_core.study import StudySpec
from hpo_core.trial import Trial
from mlflow_server.embedded import connect

log = logging.getLogger("hpo")

IDLE_SECONDS = 120.0
"""A post without a trial for so long is given up, and its worker processes with what they hold of memory and GPUs."""

CONNECT_SECONDS = 60.0
"""How long a new post asks for MLflow."""

REFRESH_SECONDS = 5.0
"""How old the losses of other trials may be when a trial is compared with them."""

WATCH_SECONDS = 10.0
"""How often a trial asks whether its flow was stopped."""

URI = "MLFLOW_TRACKING_URI"
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
OWN = bool(os.environ.get(URI))
"""Whether this process was told of MLflow by whoever started it; then nothing of the flow's is used."""


@dataclass(frozen=True)
class Order:
    """A trial as another machine is told of it.

    Args:
        study_run: The study's run.
        run: The run of the trial, or of the evaluation of the final choice.
        owner: The flow that reserved it.
        edition: Which edition of the study's specification the flow works by; see :func:`edition`.
        tracking: The environment variables that lead to MLflow, for a worker that has none of its own. They may hold a
            password: an order is data between this flow and its engine, and never a parameter that Prefect stores.
        objective: What to train; None: what the study names.
    """

    study_run: str
    run: str
    owner: str
    edition: str
    tracking: Mapping[str, str] = field(repr=False)
    objective: Objective | None = None


def edition(spec: StudySpec) -> str:
    """What tells two editions of a study's specification apart."""
    return blake2b(spec.to_json().encode(), digest_size=8).hexdigest()


class Deserted(Exception):
    """Another process had begun the trial and is gone: the engine has started the task once more."""


class FreshRungs(Rungs):
    """As :class:`Rungs`, but nobody loads the study for it.

    Args:
        ledger: The study, for nothing but this.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger, self._store = ledger, ledger.store
        self._lock, self._read = threading.Lock(), 0.0

    def load(self, store: Store | None = None) -> History:
        """The study as it stands now."""
        with self._lock:
            self._ledger.store = store or self._store
            self.history, self._read = self._ledger.load(), time.monotonic()
            return self.history

    def view(self) -> History:
        if time.monotonic() - self._read > REFRESH_SECONDS:
            try:
                self.load(self._store.with_patience(0.0))
            except TrackingError as error:
                log.warning("a trial is judged by what was known before: %s", error)
        return super().view()


class Recall:
    """Whether the flow that waits for a trial was stopped: it has then ended the run as interrupted."""

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run = store.with_patience(0.0), run
        self._due, self._set = time.monotonic() + WATCH_SECONDS, False

    def is_set(self) -> bool:
        if not self._set and time.monotonic() > self._due:
            with contextlib.suppress(TrackingError, TrackingRefusal):
                self._set = _interrupted(self._store.get(self._run))
            self._due = time.monotonic() + WATCH_SECONDS
        return self._set


def _interrupted(run: Run) -> bool:
    return run.status != RUNNING and run.tags.get("hpo.lost") == "interrupted"


class PostSession(Session):
    """A session whose trials are stopped one by one."""

    def stopped(self, trial: Trial) -> Flag:
        return Recall(self.ledger.store, trial.run_id)


class Post:
    """A study, as this process trains for it.

    Args:
        order: The first trial.

    Raises:
        TrackingError: MLflow does not answer from here.
    """

    def __init__(self, order: Order) -> None:
        store = _connect(order.tracking.get(URI))
        run = store.get(order.study_run)
        spec = stored_spec(run)
        ledger = Ledger(store, spec, run)
        here = os.getcwd()
        objective = order.objective or Objective(spec.objective, needs_hypergradient=spec.needs_hypergradient)
        objective = replace(objective, path=(here, *(folder for folder in objective.path if folder != here)))
        self._devices = devices() if spec.resources.gpus else []
        pool = WorkerPool(0, objective, lambda slot: variables(spec.resources, self._devices, slot))
        self._rungs = FreshRungs(Ledger(store, spec, run))
        self.session = PostSession(ledger, pool, objective, home(), rungs=self._rungs)
        self.session.spool.deliver(ledger)
        self.trials = 0  # that run now
        self.idle_since = time.monotonic()
        self._checked, self._lock = False, threading.Lock()

    def begin(self, order: Order) -> tuple[Trial, Evaluation | None]:
        """Take a trial over.

        Raises:
            TrialCancelled: Its flow was stopped meanwhile.
            Deserted: It was begun before.
        """
        ledger = self.session.ledger
        run = ledger.store.get(order.run)
        if run.status != RUNNING:
            raise TrialCancelled
        if not ledger.take_over(run, order.owner):
            raise Deserted(f"{run.tags.get('hpo.owner')} had begun it and is gone")
        history = self._rungs.load()
        if (evaluation := evaluation_of(run, ledger)) is None:
            return trial_of(run, ledger.spec), None
        trial = next(trial for trial in history if trial.number == evaluation.number)
        return again(trial, evaluation), evaluation

    def check(self, trial: Trial) -> None:
        """See, once, whether the objective can be imported here and the machine has what the study asks for.

        Raises:
            TrialFailed: It is not so; the trial's run says it.
        """
        with self._lock:
            if self._checked:
                return
            ledger = self.session.ledger
            try:
                check(ledger.spec.resources, 1, self._devices)
                self.session.pool.check()
            except InputError as error:
                where = f"on {ledger.owner.partition('.')[0]}: "
                tags = {"hpo.reason": f"{error.field}: {where}{error.problem}; {error.remedy}"[:1000]}
                tags |= {f"hpo.{MISFIT}": error.field, "hpo.lost": "unfit"}
                params = ledger.spec.search_space.to_params(trial.config)
                ledger.write(Report(trial.run_id, params=params, tags=tags, status=FAILED))
                raise TrialFailed(str(error), retry=False) from None
            self._checked = True


def _connect(uri: str | None) -> Store:
    """MLflow by this process's own environment, or else where the flow finds it.

    Raises:
        TrackingError: It does not answer for a minute.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return connect(None if OWN else uri)
        except TrackingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


_POSTS: dict[tuple[str, str, str | None], Post] = {}
_LOCK = threading.Lock()


@contextlib.contextmanager
def _post_for(order: Order) -> Iterator[Post]:
    """The post of a trial's study; a new one if there is none, or its specification or GPUs have changed."""
    if not OWN:
        os.environ.update({key: value for key, value in order.tracking.items() if key != URI})
    key = (order.study_run, order.edition, os.environ.get(VISIBLE))  # Ray gives each task GPUs of its own
    with _LOCK:
        if key not in _POSTS:
            _POSTS[key] = Post(order)
        post = _POSTS[key]
        post.trials += 1
    try:
        yield post
    finally:
        with _LOCK:
            post.trials -= 1
            post.idle_since = time.monotonic()
        timer = threading.Timer(IDLE_SECONDS + 1, _give_up_idle)
        timer.daemon = True
        timer.start()


def _give_up_idle() -> None:
    with _LOCK:
        for key, post in list(_POSTS.items()):
            if not post.trials and time.monotonic() - post.idle_since > IDLE_SECONDS:
                post.session.pool.close()
                del _POSTS[key]


@task(
    name="trial", task_run_name="{name}", retry_condition_fn=worth_another, cache_policy=NO_CACHE, persist_result=False
)
def run_away(name: str, order: Order) -> dict[str, float]:
    """Train one trial on this machine and report it. A retry continues the same MLflow run, in this process.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        order: The trial.

    Raises:
        TrialFailed: The trial gave no value; its run says why.
        TrialCancelled: Its flow was stopped; its run says so.
        Deserted: It was begun before, by a process that is gone.
        TrackingError: MLflow does not answer from here.
    """
    attempt, tags = this_task()
    with _post_for(order) as post:
        trial, evaluation = post.begin(order)
        post.check(trial)
        return evaluate(post.session, trial, attempt, tags, evaluation)


@flow(name="trial", flow_run_name="{name}", persist_result=False)
def deployed_trial(
    name: str, study_run: str, run: str, owner: str, edition: str, tracking_uri: str, retries: int
) -> None:
    """One trial as the flow run of a deployment. Its parameters stand in Prefect's database: no password is among them.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        study_run, run, owner, edition: As in :class:`Order`.
        tracking_uri: Where MLflow is, without user and password.
        retries: Further attempts in the same run.
    """
    order = Order(study_run, run, owner, edition, {URI: tracking_uri})
    run_away.with_options(retries=retries)(name, order)
