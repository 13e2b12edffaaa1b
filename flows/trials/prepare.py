"""Prepares an attempt at a trial: the job for a worker, with its seed, and the model or checkpoint it begins with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo_core.base.seeding import fold_seed, repeat_seed, trial_seed
from hpo_core.history.trial import fidelity_key
from hpo_core.selection.evaluation import ChampionVersion, EvaluationKind, Fold, Retraining, Training
from hpo_core.study.editions import params_of
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.trial_run import TrialRun
from hpo_flows.trials.checkpoints import inherited
from hpo_flows.trials.session import Session
from hpo_flows.workers.job import Job, TrialFailed


@dataclass(frozen=True)
class Prepared:
    """An attempt that a worker can begin.

    Args:
        job: What the worker does.
        obstacle: Why a trial that continues another one has no checkpoint to begin with; empty otherwise.
    """

    job: Job
    obstacle: str = ""


def prepare(session: Session, training: Training, folder: Path) -> Prepared:
    """Prepare an attempt.

    Args:
        session: The session it belongs to.
        training: What is trained.
        folder: The attempt's own folder, which is created.

    Raises:
        TrialFailed: The registry lacks the champion that is to be scored.
        TrackingError: MLflow does not respond.
        OSError: The disk refuses.
    """
    spec, phase = session.ledger.spec, training.phase
    folder.mkdir(parents=True, exist_ok=True)
    if phase == "search":
        session.rungs.restart(training.trial)
    resume, obstacle, parent_config = None, "", None
    if training.parent is not None and spec.promotes:
        resume, obstacle = inherited(session.ledger.store, session.rungs.history, training.parent, folder)
        if resume is not None:
            parent_config = next(t.config for t in session.rungs.history if t.number == training.parent)
    job = Job(
        session.objective,
        {each.metric: each.sign for each in spec.objectives},
        training.config,
        training.number,
        seed_of(session, training),
        training.fidelity,
        folder,
        resume,
        parent_config,
        spec.stop_rule.milestones if _may_be_stopped(spec, training) and spec.stop_rule is not None else None,
        spec.callbacks,
        phase=phase,
        fold=training.kind if isinstance(training.kind, Fold) else None,
        champion=_champion(session, training.kind, folder),
        to_beat=_to_beat(session, training),
        reshuffle=spec.reshuffles,
        repeats=training.trial.repeat_of is not None,
        run=TrialRun(
            session.ledger.store.uri,
            training.run_id,
            session.ledger.study_run.experiment,
            params_of(spec, training),
        ),
    )
    return Prepared(job, obstacle)


def _may_be_stopped(spec: StudySpec, training: Training) -> bool:
    """Whether the rule of early stopping applies; repeats are trained to the end, so that they can be averaged."""
    return training.phase == "search" and training.trial.repeat_of is None


def seed_of(session: Session, training: Training) -> int:
    """The seed of a run. A promoted trial keeps the seed of its first ancestor; each later evaluation has its own."""
    seed, kind = session.ledger.spec.seed, training.kind
    if training.phase == "search":
        return trial_seed(seed, session.rungs.history.origin(training.trial))
    if isinstance(kind, Retraining):
        return repeat_seed(seed, training.number, kind.index)
    return fold_seed(seed, training.number, kind.index if isinstance(kind, Fold) else -1)


def _champion(session: Session, kind: EvaluationKind | None, folder: Path) -> Path | None:
    """Fetch the champion's model if this evaluation scores it, else None.

    Raises:
        TrialFailed: The registry does not have its files.
    """
    spec = session.ledger.spec.champion
    if spec is None or not isinstance(kind, ChampionVersion):
        return None
    target = folder / "champion"
    target.mkdir(parents=True, exist_ok=True)
    found = session.ledger.store.fetch_version(spec.model, kind.version, target)
    if found is None:
        raise TrialFailed(f"the files of version {kind.version} of {spec.model!r} cannot be fetched", retry=False)
    return found


def _to_beat(session: Session, training: Training) -> Sequence[Sequence[float]]:
    """What a trial must beat to be the best so far. With a final choice, only the winner ever counts as best.

    Whatever confirms a configuration counts as best: one of these is the winner, and nobody knows yet which.
    """
    nothing, everything = list[Sequence[float]](), ([-math.inf] * len(session.ledger.spec.objectives),)
    if training.phase in ("test", "seed") or (training.phase == "search" and training.trial.confirms):
        return nothing
    if training.phase in ("fold", "champion") or session.ledger.spec.final is not None:
        return everything
    best = session.rungs.history.front
    if not best or not best[0].feasible or fidelity_key(training.fidelity) > fidelity_key(best[0].fidelity):
        return nothing
    same = fidelity_key(training.fidelity) == fidelity_key(best[0].fidelity)
    return [trial.outcome for trial in best] if same else everything
