"""The challenge: the winner of a study, re-trained on several seeds, is held against the champion of MLflow's registry.

Everything here is a function of the evaluations in MLflow and of the registry, so that any flow, at any time, comes to
the same verdict; :mod:`hpo_core.comparison` has the test, :mod:`hpo_core.registry` how the verdict becomes a champion.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpo_core.comparison import Comparison
from hpo_core.registry import DECISION, PROMOTED, REFUSED, Version, promotion, succession
from hpo_core.selection import Evaluation, due, due_again, latest_of
from hpo_core.study import StudySpec
from hpo_core.trial import Part, Reigning, Repeat, Trial, TrialState

FORCED = "hpo.forced"


@dataclass(frozen=True)
class Challenge:
    """How the challenge of one study stands.

    Args:
        trial: The winner, whose configuration is re-trained.
        seeds: How many re-trainings there are to be.
        confidence: Of the comparison.
        reigning: The version that bears the alias now; None if none does.
        versions: All versions, as they were known a moment before.
        pending: How many evaluations have not ended yet.
        retrained: The complete re-trainings, in order of their seeds.
        scored: The champion's evaluation, once it is complete.
        obstacle: Why the winner cannot become the champion, whatever the numbers say; empty if it can.
        record: The version that holds the verdict, once there is one.
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

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: the registry has the verdict, or no re-training gave it a model to keep."""
        return self.record is not None or (self.pending == 0 and not self.retrained)

    @property
    def comparison(self) -> Comparison:
        """The numbers of the re-trainings that are complete, at least one."""
        champion = None if self.scored is None else self.scored.loss
        return Comparison([each.loss for each in self.retrained if each.loss is not None], champion, self.confidence)

    @property
    def promotes(self) -> bool:
        """What the verdict is, once nothing is pending."""
        return not self.obstacle and self.comparison.better

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
    """How the challenge stands: a function of its arguments, whatever their order."""
    assert spec.champion is not None
    latest, seeds = latest_of(evaluations), spec.champion.seeds
    complete: dict[Part, Evaluation] = {}
    obstacle, pending = "", 0
    for part in _parts(seeds, reigning):
        found = latest.get((trial.number, part, fidelity))
        if found is None or found.state is TrialState.RUNNING or due_again(found):
            pending += 1
        elif found.state is TrialState.COMPLETE:
            complete[part] = found
        else:
            what = "the champion's score" if isinstance(part, Reigning) else "the re-training"
            obstacle = obstacle or f"{what} ({part}) failed: {found.reason}"
    return Challenge(
        trial,
        seeds,
        spec.champion.confidence,
        reigning,
        versions,
        pending,
        [complete[part] for part in map(Repeat, range(seeds)) if part in complete],
        None if reigning is None else complete.get(Reigning(reigning)),
        obstacle,
        record_of(versions, study_run, trial.number, seeds),
    )


def _parts(seeds: int, reigning: int | None) -> list[Part]:
    """What is to be evaluated; first what is quick, and fails if the objective cannot score a model that it gets."""
    return [*([] if reigning is None else [Reigning(reigning)]), *map(Repeat, range(seeds))]


def wanted(challenge: Challenge, fidelity: float | None, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """What may be started now, as running evaluations without a run."""
    if challenge.record is not None:
        return []
    tasks = [(challenge.trial.number, part) for part in _parts(challenge.seeds, challenge.reigning)]
    return due(tasks, fidelity, latest_of(evaluations))


def record_of(versions: Sequence[Version], study_run: str, number: int, seeds: int) -> Version | None:
    """The version that holds the verdict on a trial: the first, if two flows registered it at the same moment."""
    key, line = (study_run, str(number), str(seeds)), succession(versions)
    for version in versions:
        tags = version.tags
        found = (tags.get("hpo.study_run"), tags.get("hpo.trial"), tags.get("hpo.seeds"))
        if found == key and FORCED not in tags and (tags.get(DECISION) != PROMOTED or version in line):
            return version
    return None


def verdict(challenge: Challenge, spec: StudySpec) -> tuple[str, str]:
    """``promoted`` or ``refused``, and why, in numbers of the metric's own direction."""
    decision = PROMOTED if challenge.promotes else REFUSED
    if challenge.obstacle:
        return decision, challenge.obstacle
    found, metric = challenge.comparison, spec.metric
    if found.champion is None:
        return decision, f"there was no champion; {metric} {spec.sign * found.mean:.6g} over {_seeds(challenge)}"
    numbers = (
        f"{metric} {spec.sign * found.mean:.6g} over {_seeds(challenge)} against {spec.sign * found.champion:.6g} of "
        f"version {challenge.reigning}"
    )
    if len(found.losses) < 2:
        return decision, f"one seed shows no spread, so no gain can be told from luck; {numbers}"
    word = "above" if found.better else "not above"
    return decision, f"a gain of {found.gain:.6g}, {word} the margin of {found.margin:.6g}; {numbers}"


def _seeds(challenge: Challenge) -> str:
    return f"{challenge.seeds} seed{'s' if challenge.seeds > 1 else ''}"


def version_tags(challenge: Challenge, spec: StudySpec, study_run: str) -> dict[str, str]:
    """What a version says of itself: the verdict with its numbers, and where it comes from."""
    decision, reason = verdict(challenge, spec)
    found = challenge.comparison
    against = "" if challenge.reigning is None else str(challenge.reigning)
    tags = {
        DECISION: decision,
        "hpo.reason": reason[:1000],
        "hpo.study": spec.name,
        "hpo.study_run": study_run,
        "hpo.trial": str(challenge.trial.number),
        "hpo.seeds": str(challenge.seeds),
        "hpo.metric": spec.metric,
        "hpo.direction": spec.direction,
        "hpo.values": json.dumps([spec.sign * loss for loss in found.losses]),
        "hpo.mean": repr(spec.sign * found.mean),
        "hpo.deviation": repr(found.deviation),
        "hpo.confidence": repr(found.confidence),
        "hpo.against": against,
    }
    if found.champion is not None:
        tags |= {"hpo.against_value": repr(spec.sign * found.champion), "hpo.gain": repr(found.gain)}
        tags["hpo.margin"] = repr(found.margin)
    return tags | promotion(challenge.reigning, challenge.versions) if decision == PROMOTED else tags
