"""Decides whether a study's winner, re-trained on several seeds, beats the champion in MLflow's registry.

Everything here depends only on the evaluations in MLflow and on the registry, so every flow reaches the same verdict
at any time; :mod:`hpo_core.selection.comparison` has the test, :mod:`hpo_core.champion.registry` how the verdict
becomes a champion.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpo_core.champion.succession import PROMOTED, REFUSED, promotion, succession
from hpo_core.history.limits import measured_again
from hpo_core.history.repeated import mean_metrics
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.store import Version
from hpo_core.ledger.tags import Tag
from hpo_core.selection.comparison import Comparison
from hpo_core.selection.evaluation import (
    ChampionVersion,
    Evaluation,
    EvaluationKind,
    Retraining,
    due,
    due_again,
    latest_of,
)
from hpo_core.study.spec import StudySpec


@dataclass(frozen=True)
class Challenge:
    """The state of one study's challenge.

    Args:
        trial: The winner, whose configuration is re-trained.
        seeds: The number of re-trainings required.
        confidence: Of the comparison.
        reigning: The version with the alias now; None if none has it.
        versions: All versions, as last read.
        pending: How many evaluations have not ended yet.
        retrained: The complete re-trainings, in order of their seeds.
        scored: The champion's evaluation, once it is complete.
        obstacle: Why the winner cannot become the champion, whatever the numbers say; empty if it can.
        record: The version that holds the verdict, once there is one.
        unfit: The study's limits and the conditions of its ``prefer`` that the champion breaks, so that it cannot stay.
    """

    trial: Trial
    seeds: int
    confidence: float
    reigning: int | None
    versions: Sequence[Version]
    pending: int
    retrained: Sequence[Evaluation] = ()
    scored: Evaluation | None = None
    obstacle: str = ""
    record: Version | None = None
    unfit: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: the verdict is registered, or no re-training produced a model to register."""
        return self.record is not None or (self.pending == 0 and not self.retrained)

    @property
    def comparison(self) -> Comparison:
        """The comparison over the complete re-trainings; needs at least one."""
        champion = None if self.scored is None else self.scored.loss
        return Comparison([each.loss for each in self.retrained if each.loss is not None], champion, self.confidence)

    @property
    def promotes(self) -> bool:
        """Whether the winner is promoted; valid once nothing is pending."""
        return not self.obstacle and (bool(self.unfit) or self.comparison.better)

    @property
    def typical(self) -> Evaluation:
        """The re-training whose model is registered."""
        return self.retrained[self.comparison.typical]


def challenge_of(
    spec: StudySpec,
    study_run: str,
    trial: Trial,
    fidelity: float | None,
    evaluations: Iterable[Evaluation],
    reigning: int | None,
    versions: Sequence[Version],
) -> Challenge:
    """Compute the state of the challenge; the order of evaluations and versions does not matter."""
    assert spec.champion is not None
    latest, seeds = latest_of(evaluations), spec.champion.seeds
    compared = spec.objectives.index(spec.compared)
    complete: dict[EvaluationKind, Evaluation] = {}
    obstacle, pending = "" if trial.feasible else "no configuration keeps the study's limits", 0
    for kind in _parts(seeds, reigning):
        found = latest.get((trial.number, kind, fidelity))
        if found is None or found.state is TrialState.RUNNING or due_again(found):
            pending += 1
        elif found.state is TrialState.COMPLETE:
            complete[kind] = found.by(compared)
        else:
            what = "the champion's score" if isinstance(kind, ChampionVersion) else "the re-training"
            obstacle = obstacle or f"{what} ({kind}) failed: {found.reason}"
    retrained = [complete[kind] for kind in map(Retraining, range(seeds)) if kind in complete]
    scored = None if reigning is None else complete.get(ChampionVersion(reigning))
    unfit = ""
    if not pending and retrained:
        logged = [each.metrics for each in retrained]
        if broken := _broken(spec, logged, mean_metrics(logged)):
            obstacle = obstacle or f"the mean over {seeds} seeds breaks {broken}"
        unfit = "" if scored is None else _broken(spec, [scored.metrics], scored.metrics)
    return Challenge(
        trial,
        seeds,
        spec.champion.confidence,
        reigning,
        versions,
        pending,
        retrained,
        scored,
        obstacle,
        record_of(versions, study_run, trial.number, seeds),
        unfit,
    )


def _broken(spec: StudySpec, trainings: Sequence[Mapping[str, float]], metrics: Mapping[str, float]) -> str:
    """The limits and the conditions of ``prefer`` that a model breaks, with its values; empty if it keeps all.

    Args:
        spec: The study.
        trainings: The metrics of its trainings. A limited metric that none of them logged breaks nothing.
        metrics: Their means, by which ``prefer`` judges.
    """
    excess = measured_again(spec.limiting, {}, trainings)
    limits = [
        f"{limit} ({limit.value(found):.6g})" for limit in spec.limiting if (found := excess.get(limit.metric, 0.0)) > 0
    ]
    wish = "" if spec.preference is None else spec.preference.broken(metrics)
    return ", ".join([*limits, *([wish] if wish else [])])


def _parts(seeds: int, reigning: int | None) -> list[EvaluationKind]:
    """The required evaluations; the champion first: it is quick, and fails early if the objective cannot score."""
    return [*([] if reigning is None else [ChampionVersion(reigning)]), *map(Retraining, range(seeds))]


def wanted(challenge: Challenge, fidelity: float | None, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """The evaluations that may start now, as running ones without a run."""
    if challenge.record is not None:
        return []
    tasks = [(challenge.trial.number, kind) for kind in _parts(challenge.seeds, challenge.reigning)]
    return due(tasks, fidelity, latest_of(evaluations))


def record_of(versions: Sequence[Version], study_run: str, number: int, seeds: int) -> Version | None:
    """The version that holds the verdict on a trial: the first, if two flows registered it concurrently."""
    key, line = (study_run, str(number), str(seeds)), succession(versions)
    for version in versions:
        tags = version.tags
        found = (tags.get(Tag.STUDY_RUN), tags.get(Tag.TRIAL), tags.get(Tag.SEEDS))
        if found == key and Tag.FORCED not in tags and (tags.get(Tag.DECISION) != PROMOTED or version in line):
            return version
    return None


def verdict(challenge: Challenge, spec: StudySpec) -> tuple[str, str]:
    """``promoted`` or ``refused``, and why, in numbers of the metric's own direction."""
    decision = PROMOTED if challenge.promotes else REFUSED
    if challenge.obstacle:
        return decision, challenge.obstacle
    found, compared = challenge.comparison, spec.compared
    ours = f"{compared.metric} {compared.sign * found.mean:.6g} over {_seeds(challenge)}"
    if found.champion is None:
        return decision, f"there was no champion; {ours}"
    numbers = f"{ours} against {compared.sign * found.champion:.6g} of version {challenge.reigning}"
    if challenge.unfit:
        return decision, f"the champion breaks {challenge.unfit}; {numbers}"
    if len(found.losses) < 2:
        return decision, f"one seed shows no spread, so no gain can be told from luck; {numbers}"
    word = "above" if found.better else "not above"
    return decision, f"a gain of {found.gain:.6g}, {word} the margin of {found.margin:.6g}; {numbers}"


def _seeds(challenge: Challenge) -> str:
    return f"{challenge.seeds} seed{'s' if challenge.seeds > 1 else ''}"


def version_tags(challenge: Challenge, spec: StudySpec, study_run: str) -> dict[str, str]:
    """The tags of a registered version: the verdict with its numbers, and its origin."""
    decision, reason = verdict(challenge, spec)
    found, compared = challenge.comparison, spec.compared
    sign = compared.sign
    against = "" if challenge.reigning is None else str(challenge.reigning)
    tags = {
        Tag.DECISION: decision,
        Tag.REASON: reason[:1000],
        Tag.STUDY: spec.name,
        Tag.STUDY_RUN: study_run,
        Tag.TRIAL: str(challenge.trial.number),
        Tag.SEEDS: str(challenge.seeds),
        Tag.METRIC: compared.metric,
        Tag.DIRECTION: compared.direction,
        Tag.VALUES: json.dumps([sign * loss for loss in found.losses]),
        Tag.MEAN: repr(sign * found.mean),
        Tag.DEVIATION: repr(found.deviation),
        Tag.CONFIDENCE: repr(found.confidence),
        Tag.AGAINST: against,
    }
    if found.champion is not None:
        tags |= {Tag.AGAINST_VALUE: repr(sign * found.champion), Tag.GAIN: repr(found.gain)}
        tags[Tag.MARGIN] = repr(found.margin)
    return tags | promotion(challenge.reigning, challenge.versions) if decision == PROMOTED else tags
