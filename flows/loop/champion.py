"""Runs the challenge of the champion: re-trainings in the loop's free slots, then the verdict in MLflow's registry."""

from __future__ import annotations

import logging

from hpo_core.base.errors import TrackingRefusal
from hpo_core.champion.challenge import Challenge, challenge_of, record_of, verdict, version_tags, wanted
from hpo_core.champion.publication import publish_model
from hpo_core.champion.record import champion_spec, name_verdict
from hpo_core.champion.registry import settle
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Version
from hpo_core.ledger.tags import MODEL
from hpo_core.selection.evaluation import Evaluation
from hpo_flows.loop.final import FinalStage
from hpo_flows.loop.stage import Step, collect, reserve

log = logging.getLogger("hpo")


class ChampionStage:
    """The challenge of one study, shared with all other flows that work on it.

    Args:
        ledger: The study; its specification names a model.
        folds: The study's evaluations.
        final: The study's final choice, which names the challenger; None if the incumbent is the challenger.

    Attributes:
        challenge: The state of the challenge, as last loaded; None while the winner is unknown, or if there is none.
        crowned: The version that this flow has made the champion.
    """

    def __init__(self, ledger: Ledger, folds: FoldLedger, final: FinalStage | None) -> None:
        self._ledger, self._folds, self._spec, self._final = ledger, folds, champion_spec(ledger), final
        self._evaluations: list[Evaluation] = []
        self.challenge: Challenge | None = None
        self.crowned: Version | None = None

    def load(self, history: History) -> bool:
        trial = self._winner(history)
        if history.running or trial is None:
            self.challenge = None
            return trial is None
        registry, model = self._ledger.store, self._spec.model
        self._evaluations = self._folds.load()
        champion, versions = settle(registry, model)
        self.challenge = challenge_of(
            self._ledger.spec,
            self._ledger.study_run.id,
            trial,
            history.max_fidelity,
            self._evaluations,
            champion,
            versions,
        )
        return self.challenge.done

    def advance(self, history: History, free: int) -> Step:
        over, challenge = self.load(history), self.challenge
        if over or challenge is None:
            return Step(over=over)
        if challenge.pending == 0:
            self.decide(challenge)
            return Step(stale=True)
        todo = wanted(challenge, history.max_fidelity, self._evaluations)
        return collect(reserve(self._folds, history, todo[: max(free, 0)]))

    def record(self) -> None:
        """Write the verdict into the study's run, as last loaded. Idempotent."""
        if self.challenge is not None:
            name_verdict(self._ledger, self.challenge)

    def _winner(self, history: History) -> Trial | None:
        """The challenger: the winner of the final choice, or what stands for the search of a study without one.

        Whether the former keeps the limits was decided by its folds.
        """
        if self._final is None:
            return self._ledger.spec.stands_for(history.front)
        choice = self._final.choice
        return choice.winner.judged if choice is not None and choice.done and choice.winner is not None else None

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
        version = registry.register(model, run, MODEL, tags, f"{decision}: {reason}", publish_model(ledger, [run]))
        key = (ledger.study_run.id, challenge.trial.number, challenge.seeds)
        first = record_of(registry.versions(model), *key)
        if first is not None and first.number < version.number:
            registry.delete_version(model, version.number)
        champion, _ = settle(registry, model)
        if champion == version.number:
            self.crowned = version
