"""The challenge as the loop sees it: re-trainings in its slots, then the verdict, in MLflow's registry."""

from __future__ import annotations

import logging
import math

from flows.context import MODEL
from flows.final import Started, reserve
from hpo_core.challenge import FORCED, Challenge, challenge_of, record_of, verdict, version_tags, wanted
from hpo_core.errors import InputError, TrackingRefusal
from hpo_core.folds import FoldLedger
from hpo_core.history import History
from hpo_core.ledger import Ledger, now_ms
from hpo_core.registry import (
    DECISION,
    PROMOTED,
    REFUSED,
    REIGNED,
    ROLLED_BACK,
    Version,
    promotion,
    settle,
    succession,
)
from hpo_core.selection import Choice, Evaluation
from hpo_core.store import Metric
from hpo_core.study import ChampionSpec
from hpo_core.trial import Trial

log = logging.getLogger("hpo")


class ChampionStage:
    """The challenge of one study, shared with whatever other flows work on it.

    Args:
        ledger: The study; its specification names a model.
        folds: Its evaluations.
    """

    def __init__(self, ledger: Ledger, folds: FoldLedger) -> None:
        self._ledger, self._folds, self._spec = ledger, folds, _asked(ledger)
        self._evaluations: list[Evaluation] = []

    def load(self, history: History, choice: Choice | None) -> Challenge | None:
        """How the challenge stands in MLflow now; None while nobody knows the winner, or if there is none."""
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
        """Reserve as many evaluations as there are free slots, by what the last load has shown."""
        todo = wanted(challenge, history.max_fidelity, self._evaluations)
        return reserve(self._folds, history, todo[: max(free, 0)])

    def decide(self, challenge: Challenge) -> None:
        """Write the verdict into the registry, and let it be done.

        Of two flows that do so at the same moment, the first one's version stays.

        Raises:
            TrackingRefusal: The model that is to be registered is not in the artifact store.
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


def _asked(ledger: Ledger) -> ChampionSpec:
    if ledger.spec.champion is None:
        raise InputError(
            "champion",
            f"study {ledger.spec.name!r} names no registered model",
            "add champion: {model: NAME} to the study file, and run it",
        )
    return ledger.spec.champion


def winner(history: History, choice: Choice | None) -> Trial | None:
    """Who challenges: the winner of the final choice, or the incumbent of a study that asks for none."""
    if choice is None:
        return history.incumbent
    return None if choice.winner is None else choice.winner.trial


def challenge_in(ledger: Ledger, history: History, choice: Choice | None) -> Challenge | None:
    """How the study's challenge stands; None if it asks for none, or nobody knows the winner."""
    if ledger.spec.champion is None or (choice is not None and not choice.done):
        return None
    return ChampionStage(ledger, FoldLedger(ledger)).load(history, choice)


def name_verdict(ledger: Ledger, challenge: Challenge) -> None:
    """Write the verdict into the study's run, its numbers as metrics. Repeating it adds nothing."""
    if not challenge.done:
        return
    spec, asked, record = ledger.spec, _asked(ledger), challenge.record
    tags = {"hpo.champion_model": asked.model, "hpo.champion_decision": REFUSED}
    if record is None:
        tags["hpo.champion_reason"] = challenge.obstacle[:1000]
        ledger.store.log(ledger.study_run.id, [], {}, tags)
        return
    own = _own(ledger.store.versions(asked.model), ledger)
    last = [each for each in own if each.tags.get("hpo.trial") == str(challenge.trial.number)][-1]
    tags |= {
        "hpo.champion_decision": last.tags[DECISION],
        "hpo.champion_version": str(last.number),
        "hpo.champion_against": last.tags.get("hpo.against", ""),
        "hpo.champion_reason": last.tags.get("hpo.reason", ""),
    }
    numbers = {
        f"challenger/{spec.metric}": "hpo.mean",
        f"challenger/{spec.metric}_deviation": "hpo.deviation",
        f"champion/{spec.metric}": "hpo.against_value",
        "challenger/gain": "hpo.gain",
        "challenger/margin": "hpo.margin",
    }
    end = max(each.end or 0 for each in challenge.retrained) if challenge.retrained else now_ms()
    values = {name: float(record.tags[key]) for name, key in numbers.items() if key in record.tags}
    metrics = [Metric(name, value, end) for name, value in values.items() if math.isfinite(value)]
    ledger.store.log(ledger.study_run.id, metrics, {}, tags)


def _own(versions: list[Version], ledger: Ledger) -> list[Version]:
    """The versions that a study has registered and that were not outrun, oldest first."""
    run, line = ledger.study_run.id, succession(versions)
    own = [each for each in versions if each.tags.get("hpo.study_run") == run]
    return [each for each in own if each.tags.get(DECISION) != PROMOTED or each in line]


def challenge_line(challenge: Challenge, model: str) -> str:
    """The verdict in one line, or how far the challenge is."""
    if not challenge.done:
        return f"champion of {model}: {challenge.pending} evaluations are to be done"
    if challenge.record is None:
        return f"champion of {model}: refused: {challenge.obstacle}"
    tags = challenge.record.tags
    return f"champion of {model}: version {challenge.record.number} {tags[DECISION]}: {tags.get('hpo.reason', '')}"


def promote(ledger: Ledger, *, force: bool = False, reason: str = "") -> str:
    """Make the study's registered model the champion, where the verdict did not or where that was rolled back.

    It is registered anew, with the reason, so that the log of versions says who was champion when.

    Returns:
        What was done, for people.

    Raises:
        InputError: The study has no registered model, or the verdict is against it and ``force`` is not given.
    """
    registry, model = ledger.store, _asked(ledger).model
    champion, versions = settle(registry, model)
    own = _own(versions, ledger)
    if not own:
        problem = f"study {ledger.spec.name!r} has no version of {model!r} yet"
        raise InputError("STUDY", problem, "run it to its end: hpo tune STUDY")
    last = own[-1]
    if last.number == champion:
        return f"{model}: version {champion} of study {ledger.spec.name} is the champion"
    if not force:
        state = "it was rolled back" if ROLLED_BACK in last.tags else last.tags.get("hpo.reason", "")
        problem = f"version {last.number} of {model!r} is not the champion ({last.tags[DECISION]}: {state})"
        raise InputError("--force", problem, "give --force --reason TEXT to promote it all the same")
    if not reason.strip():
        raise InputError("--reason", "is missing, and a promotion by hand is kept with it", "give --reason TEXT")
    kept = {key: value for key, value in last.tags.items() if key not in (REIGNED, ROLLED_BACK)}
    tags = kept | promotion(champion, versions) | {FORCED: reason[:1000]}
    version = registry.register(model, last.run, MODEL, tags, f"promoted by hand: {reason}")
    if settle(registry, model)[0] != version.number:
        raise InputError("STUDY", f"another version of {model!r} was promoted at this moment", "look at it, and repeat")
    noted = {"hpo.champion_decision": PROMOTED, "hpo.champion_version": str(version.number), FORCED: reason[:1000]}
    ledger.store.log(ledger.study_run.id, [], {}, {"hpo.champion_model": model} | noted)
    return f"{model}: version {version.number} is the champion (before: {champion or 'none'}; by hand: {reason})"
