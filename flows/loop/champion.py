"""Runs the challenge of the champion: re-trainings in the loop's free slots, then the verdict in MLflow's registry."""

from __future__ import annotations

import logging

from hpo_core.base.errors import TrackingRefusal
from hpo_core.champion.challenge import Challenge, challenge_of, record_of, verdict, version_tags, wanted
from hpo_core.champion.record import champion_spec
from hpo_core.champion.registry import settle
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import MODEL
from hpo_core.selection.evaluation import Evaluation
from hpo_core.selection.final_choice import Choice
from hpo_flows.loop.final import Started, reserve

log = logging.getLogger("hpo")


class ChampionStage:
    """The challenge of one study, shared with all other flows that work on it.

    Args:
        ledger: The study; its specification names a model.
        folds: The study's evaluations.
    """

    def __init__(self, ledger: Ledger, folds: FoldLedger) -> None:
        self._ledger, self._folds, self._spec = ledger, folds, champion_spec(ledger)
        self._evaluations: list[Evaluation] = []

    def load(self, history: History, choice: Choice | None) -> Challenge | None:
        """Load the challenge's current state from MLflow; None while the winner is unknown, or if there is none."""
        trial = winner(history, choice)
        if history.running or trial is None:
            return None
        registry, model = self._ledger.store, self._spec.model
        self._evaluations = self._folds.load()
        reigning, versions = settle(registry, model)
        return challenge_of(
            self._ledger.spec,
            self._ledger.study_run.id,
            trial,
            history.max_fidelity,
            self._evaluations,
            reigning,
            versions,
        )

    def start(self, history: History, challenge: Challenge, free: int) -> Started:
        """Reserve as many evaluations as there are free slots, based on the last load."""
        todo = wanted(challenge, history.max_fidelity, self._evaluations)
        return reserve(self._folds, history, todo[: max(free, 0)])

    def decide(self, challenge: Challenge) -> None:
        """Write the verdict into the registry and apply it.

        If two flows do so at the same moment, the first one's version stays.

        Raises:
            TrackingRefusal: The model to register is not in the artifact store.
        """
        ledger, registry, model = self._ledger, self._ledger.store, self._spec.model
        run, spec = challenge.typical.run_id, ledger.spec
        if registry.download(run, f"{MODEL}/MLmodel") is None:
            raise TrackingRefusal(
                "RESOURCE_DOES_NOT_EXIST",
                f"the artifact store does not give the model of run {run}, which is to be registered; run the study "
                "again when it does, or delete the run, so that it is trained once more",
            )
        decision, reason = verdict(challenge, spec)
        tags = version_tags(challenge, spec, ledger.study_run.id)
        version = registry.register(model, run, MODEL, tags, f"{decision}: {reason}")
        key = (ledger.study_run.id, challenge.trial.number, challenge.seeds)
        first = record_of(registry.versions(model), *key)
        if first is not None and first.number < version.number:
            registry.delete_version(model, version.number)
        settle(registry, model)


def winner(history: History, choice: Choice | None) -> Trial | None:
    """The challenger: the winner of the final choice, or the incumbent of a study without one."""
    if choice is None:
        return history.incumbent
    return None if choice.winner is None else choice.winner.trial


def challenge_in(ledger: Ledger, history: History, choice: Choice | None) -> Challenge | None:
    """The state of the study's challenge; None if it asks for none, or the winner is unknown."""
    if ledger.spec.champion is None or (choice is not None and not choice.done):
        return None
    return ChampionStage(ledger, FoldLedger(ledger)).load(history, choice)
