"""Shares evaluations outside the search between flows, as for trials: create the run first, then claim it.

An evaluation is a run nested below its trial's run, with the tag ``hpo.role`` = ``fold``, ``test``, ``seed`` or
``champion`` and the study's run in ``hpo.final``. It counts only if the param ``fold.<trial>...`` of the study's claims
(:mod:`hpo_core.ledger.ledger`) holds its id. For a running run whose claim is unknown, the reader claims on its behalf.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from hpo_core.base.source import source_tags
from hpo_core.history.trial import Trial
from hpo_core.ledger.decode import evaluation_of, kind_tags
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.ownership import lost_because, new_lease
from hpo_core.ledger.store import RUNNING, Run
from hpo_core.ledger.tags import SCHEMA, Tag, join_tag, split_tag
from hpo_core.selection.evaluation import ChampionVersion, Evaluation, EvaluationKind, Fold, Retraining, phase_of
from hpo_core.space.configuration import config_from_json, config_to_json

log = logging.getLogger("hpo")


class FoldLedger:
    """The evaluations of one study, as one flow sees them. Not safe for several threads.

    Args:
        ledger: The study.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._running: set[str] = set()  # runs this flow is training
        self._holders: set[str] = set()  # runs known to hold their claim
        self._losers: set[str] = set()  # runs known to have lost their claim

    def load(self) -> list[Evaluation]:
        """Load all current evaluations in one search; ends those whose flow is dead as lost."""
        ledger, found = self._ledger, []
        for run, evaluation in self._search():
            if not self._holds(run, evaluation):
                continue
            known: Evaluation | None = evaluation
            if why := self._dead(run):
                if ledger.end_lost(run, why, self._params_of(run)):
                    log.warning("%s of trial %d is lost: %s", evaluation_name(evaluation), evaluation.number, why)
                known = evaluation_of(ledger.store.get(run.id), ledger.spec)
            if known is not None:
                found.append(known)
        return found

    def stale(self) -> list[tuple[Run, Evaluation, str]]:
        """Runs listed as running whose flow is presumed dead, and why; :meth:`load` would end or delete them."""
        return [(run, evaluation, why) for run, evaluation in self._search() if (why := self._dead(run))]

    def _search(self) -> Iterator[tuple[Run, Evaluation]]:
        ledger = self._ledger
        for run in ledger.store.search([ledger.study_run.experiment], {Tag.FINAL: ledger.study_run.id}):
            if (evaluation := evaluation_of(run, ledger.spec)) is not None:
                yield run, evaluation

    def _dead(self, run: Run) -> str:
        """Why the flow of a running run is presumed dead; empty if it is alive or the run has ended."""
        return "" if run.status != RUNNING or run.id in self._running else lost_because(run)

    def _holds(self, run: Run, evaluation: Evaluation) -> bool:
        """Whether the run holds its claim. Only the holder trains, so an ended run or one with params must hold it."""
        if run.id in self._holders or run.status != RUNNING or run.params:
            return True
        if run.id not in self._losers:
            won = self._ledger.claim(_claim(evaluation), run.id)
            (self._holders if won else self._losers).add(run.id)
            return won
        if lost_because(run):  # its flow died before deleting it
            self._ledger.store.delete_run(run.id)
        return False

    def _params_of(self, run: Run) -> dict[str, str]:
        """The params to log for a run; none if its configuration is unreadable."""
        try:
            config = config_from_json(join_tag(Tag.CONFIG, run.tags))
        except ValueError:
            return {}
        return self._ledger.spec.search_space.to_params(config)

    def reserve(self, wanted: Evaluation, trial: Trial) -> Evaluation | None:
        """Claim an evaluation for this flow. Its run exists in MLflow before training starts.

        Args:
            wanted: What :meth:`hpo_core.selection.final_choice.Selection.wanted` returned.
            trial: The trial whose configuration is evaluated.

        Returns:
            The evaluation with its run, or None if another flow was faster.
        """
        ledger, spec, kind = self._ledger, self._ledger.spec, wanted.kind
        tags = {
            "mlflow.parentRunId": trial.run_id,
            **source_tags(spec.objective),
            Tag.ROLE: phase_of(kind),
            Tag.SCHEMA: SCHEMA,
            Tag.STUDY: spec.name,
            Tag.FINAL: ledger.study_run.id,
            Tag.TRIAL: str(trial.number),
            Tag.ATTEMPT: str(wanted.attempt),
            Tag.SEED: str(spec.seed),
            Tag.OWNER: ledger.owner,
            Tag.LEASE: new_lease(),
            **kind_tags(kind),
            **split_tag(Tag.CONFIG, config_to_json(trial.config)),
        }
        if wanted.fidelity is not None:
            tags[Tag.FIDELITY] = repr(wanted.fidelity)
        name = f"{spec.name}-{trial.number:04d}-{_kind_name(kind)}"
        run = ledger.store.create_run(ledger.study_run.experiment, name, tags)
        if not ledger.claim(_claim(wanted), run.id):
            ledger.store.delete_run(run.id)
            ledger.backoff.lost()
            return None
        ledger.backoff.won()
        self._holders.add(run.id)
        self._running.add(run.id)
        return evaluation_of(run, ledger.spec)

    def release(self, run_id: str) -> None:
        """Stop treating the evaluation as in training here; the next load reads its outcome."""
        self._running.discard(run_id)


def evaluation_name(evaluation: Evaluation) -> str:
    """What an evaluation is scored on, in readable form."""
    return "test" if evaluation.kind is None else str(evaluation.kind)


def _kind_name(kind: EvaluationKind | None) -> str:
    """The part of a run's name that stands for its kind."""
    match kind:
        case Fold(index, _):
            return f"fold-{index + 1}"
        case Retraining(index):
            return f"seed-{index + 1}"
        case ChampionVersion(version):
            return f"champion-{version}"
    return "test"


def _claim(evaluation: Evaluation) -> str:
    """The claim key of one attempt at an evaluation."""
    kind = evaluation.kind
    name = f"{kind.index}of{kind.of}" if isinstance(kind, Fold) else _kind_name(kind)
    fidelity = "" if evaluation.fidelity is None else f".{evaluation.fidelity!r}"
    return f"fold.{evaluation.number}.{name}.{evaluation.attempt}{fidelity}"
