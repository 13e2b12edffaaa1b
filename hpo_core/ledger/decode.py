"""Decodes MLflow runs into trials, evaluations and studies; handles metric direction, NaN and infinity."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from hpo_core.base.errors import InputError
from hpo_core.base.storable import MAX_VALUE
from hpo_core.history.limits import excesses
from hpo_core.history.spending import SECONDS, usable
from hpo_core.history.trial import HYPERGRADIENT, Trial, TrialState, hypergradient_of
from hpo_core.ledger import ownership
from hpo_core.ledger.known_runs import number_of
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING, Run
from hpo_core.ledger.study_run import current_document, instructions_of
from hpo_core.ledger.tags import (
    FOLD_VALUE,
    HIDDEN,
    MEASURED_SECONDS,
    RUNG,
    SCHEMA,
    TRIAL_TAGS,
    Tag,
    facts_of,
    join_tag,
    named,
    parse_count,
)
from hpo_core.selection.evaluation import ChampionVersion, Evaluation, EvaluationKind, Fold, Retraining
from hpo_core.space.configuration import Scalar, config_from_json, config_of
from hpo_core.study.editions import in_force, is_of_today
from hpo_core.study.file import study_from
from hpo_core.study.resume import with_what_holds
from hpo_core.study.spec import StudySpec

NOTHING: dict[Any, Any] = {}
"""What most trials have of most things, shared by all of them."""


def is_finite_metric(value: float | None) -> TypeGuard[float]:
    """Whether a metric, as stored by MLflow, exists and is finite."""
    return value is not None and abs(value) < MAX_VALUE


def is_settled(run: Run) -> bool:
    """Whether a run can no longer change as a trial.

    A run is settled once it has its result. A failed run is settled once a full lease has passed since its end, because
    until then another flow may be about to declare it lost. A run that is lost, or that a person ended, may still get
    a late result.
    """
    if Tag.LOST in run.tags:
        return False
    if run.status == FINISHED and Tag.RESULT in run.tags and Tag.REASON not in run.tags:
        return True
    ended = run.status in (FINISHED, FAILED) and run.end is not None and Tag.REASON in run.tags
    return ended and (run.end or 0) + 1000 * ownership.LEASE_SECONDS < ownership.now_ms()


def reserved_trial(run: Run, spec: StudySpec) -> Trial:
    """As :func:`trial_of`, in the space in which the trial was proposed: as whoever reserved it knows it."""
    trial = trial_of(run, spec)
    then = in_force(spec, trial.edition, trial.number)
    return trial if then is spec else trial_of(run, then)


def trial_of(run: Run, spec: StudySpec) -> Trial:
    """Decode a run as a trial of the study; applies the metric direction and rejects NaN and infinity.

    Raises:
        ValueError: The run is not a trial of this study, or is damaged; the message says why.
    """
    number = number_of(run)
    if number is None:
        raise ValueError("it has no trial number")
    facts = facts_of(run.tags)
    tags = named(run.tags, facts)
    if tags.get(Tag.SCHEMA) != SCHEMA:
        raise ValueError(f"it was written by schema {tags.get('hpo.schema')!r}, this is {SCHEMA}")
    edition = tags.get(Tag.EDITION, "")
    config, outside = _config_of(run, facts, spec, edition, number)
    derived = any(map(_is_derived, run.metrics))
    losses, unknown = _losses_of(run, spec)
    reason = tags.get(Tag.REASON, "")
    notes: dict[str, Scalar] = {name: text for key, text in tags.items() if (name := _noted(key))}
    state = _state_of(run, unknown, lost="lost" in notes)
    if state is TrialState.COMPLETE:
        if notes.pop("lost", None):  # declared lost, but its result arrived later
            reason = ""
    elif state is TrialState.FAILED:
        reason = reason or _without_value(run, unknown, spec)
        if Tag.STOP in tags and notes.pop("lost", None):  # its flow died or ended before it heard of hpo stop --trial
            reason = tags[Tag.STOP]
    fidelity = requested = _fidelity_of(tags, Tag.FIDELITY)
    stopped_early = False
    if state is TrialState.COMPLETE and (reached := _fidelity_of(tags, Tag.REACHED)) is not None:
        fidelity, stopped_early = reached, True
    return Trial(
        number=number,
        config=config,
        state=state,
        loss=losses[0] if state is TrialState.COMPLETE else None,
        fidelity=fidelity,
        parent=parse_count(tags.get(Tag.PARENT, ""), 6),
        notes=notes,
        reason=reason,
        run_id=run.id,
        stopped_early=stopped_early,
        requested_fidelity=requested,
        metrics=_own_metrics(run, derived),
        hypergradient=hypergradient_of(run.metrics, spec.sign) if derived else NOTHING,
        rungs=_rungs_of(run, spec) if derived else NOTHING,
        excess=excesses(spec.limiting, run.metrics) if state is TrialState.COMPLETE and spec.limits else NOTHING,
        cost=None if state is TrialState.RUNNING else _cost_of(run, spec),
        folds=_folds_of(run, spec) if state is TrialState.COMPLETE else (),
        folds_wanted=parse_count(tags.get(Tag.FOLDS_WANTED, ""), 6) or 0,
        start=run.start,
        end=run.end,
        owner=tags.get(Tag.OWNER, ""),
        losses=losses if state is TrialState.COMPLETE and spec.metrics else (),
        edition=edition,
        outside=outside,
    )


@functools.lru_cache(maxsize=1024)  # trials have the same ones
def _noted(tag: str) -> str:
    """The name of the note that a tag is; empty if it is something else."""
    is_note = tag.startswith(Tag.PREFIX) and tag not in TRIAL_TAGS and not tag.startswith(Tag.CONFIG)
    return tag.removeprefix(Tag.PREFIX) if is_note else ""


@functools.lru_cache(maxsize=1024)
def _is_derived(metric: str) -> bool:
    """Whether a metric says something about the trial beside its values."""
    return metric.startswith((*HIDDEN, HYPERGRADIENT))


def _own_metrics(run: Run, derived: bool) -> Mapping[str, float]:
    """The metrics that the objective logged.

    NaN is not a value: it voids a metric that an earlier attempt of the same trial reported.
    """
    total = sum(run.metrics.values())  # NaN if one of them is, which is quicker to find than to look at each
    if not derived and total == total:
        return run.metrics
    return {key: value for key, value in run.metrics.items() if not (key.startswith(HIDDEN) or value != value)}


def _state_of(run: Run, unknown: str, *, lost: bool) -> TrialState:
    """The state of a trial or evaluation.

    Args:
        run: Its run.
        unknown: The metric that has no finite value; empty if all have one.
        lost: Whether it was declared lost; its result may have arrived later.
    """
    if run.status in (RUNNING, "SCHEDULED"):
        return TrialState.RUNNING
    ended_well = run.status == FINISHED or (lost and Tag.RESULT in run.tags)
    return TrialState.COMPLETE if ended_well and not unknown else TrialState.FAILED


def _without_value(run: Run, unknown: str, spec: StudySpec) -> str:
    """Why a trial or evaluation failed whose run gives no reason."""
    return f"{run.status.lower()} without a finite {unknown or spec.metric}"


def _cost_of(run: Run, spec: StudySpec) -> float | None:
    """What an ended trial cost; None if that is not known.

    Trials of before the study had ``cost: seconds``, and asked ones, took as long as their runs. Those of a lost trial
    end whenever somebody noticed.
    """
    if spec.cost != SECONDS:
        return usable(run.metrics.get(spec.cost)) if spec.cost else None
    if (measured := usable(run.metrics.get(MEASURED_SECONDS))) is not None:
        return measured
    return None if run.end is None or Tag.LOST in run.tags else usable((run.end - run.start) / 1000)


def _losses_of(run: Run, spec: StudySpec) -> tuple[tuple[float, ...], str]:
    """The loss in each objective, up to the first one without a finite value; and that one's metric, or nothing."""
    losses: tuple[float, ...] = ()
    for objective in spec.objectives:
        if not is_finite_metric(value := run.metrics.get(objective.metric)):
            return losses, objective.metric
        losses += (objective.loss(value),)
    return losses, ""


def _fidelity_of(tags: Mapping[str, str], key: str) -> float | None:
    fidelity = float(tags[key]) if key in tags else None
    if fidelity is not None and not math.isfinite(fidelity):
        raise ValueError(f"its fidelity is {fidelity}")
    return fidelity


def _rungs_of(run: Run, spec: StudySpec) -> dict[int, float]:
    """Losses at the milestones, by number of steps; ignores foreign metrics with the same prefix."""
    found = {
        parse_count(key.removeprefix(RUNG), 9): value for key, value in run.metrics.items() if key.startswith(RUNG)
    }
    return {steps: spec.loss(value) for steps, value in found.items() if steps and abs(value) < MAX_VALUE}


def _folds_of(run: Run, spec: StudySpec) -> tuple[float, ...]:
    """The losses of a trial's folds, in order, up to the first one without a finite value."""
    losses: list[float] = []
    while is_finite_metric(value := run.metrics.get(f"{FOLD_VALUE}{len(losses) + 1}")):
        losses.append(spec.loss(value))
    return tuple(losses)


def _config_of(
    run: Run, facts: Mapping[str, Any], spec: StudySpec, edition: str, number: int
) -> tuple[dict[str, Scalar], Mapping[str, str]]:
    """The configuration of a run in today's space, and why it lies outside; empty if it lies inside.

    It is among the facts of the proposal; earlier versions wrote a tag, or only params.

    Raises:
        ValueError: It is of today's edition, and not in its space; or it is unreadable.
    """
    today = is_of_today(spec, edition, number)
    if text := join_tag(Tag.CONFIG, run.tags):
        config = config_from_json(text)
    elif "config" in facts:
        config = facts["config"] if today and isinstance(facts["config"], dict) else config_of(facts["config"])
    else:
        space = spec.search_space if today else in_force(spec, edition, number).search_space
        config = space.from_params(run.params)
    if today:
        return spec.search_space.validated(config, check_constraints=False), NOTHING
    fitted, outside = spec.placed(config)
    return config if outside else fitted, outside


def stored_spec(run: Run) -> StudySpec:
    """Read the specification stored in a study's run, with the settings that were changed since.

    Raises:
        InputError: It is damaged.
    """
    spec = written_spec(run)
    return with_what_holds(spec, spec, instructions_of(run).every)[0]


def written_spec(run: Run) -> StudySpec:
    """As :func:`stored_spec`, without what people have changed by instructions.

    Studies of versions without repeats are to have none.

    Raises:
        InputError: It is damaged.
    """
    try:
        stored = current_document(run.tags)
        return study_from({"repeats": "off", **stored} if isinstance(stored, dict) else stored, reading=True)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"study run {run.id}", f"its stored specification cannot be used ({error})", "delete the run in MLflow"
        ) from None


def kind_tags(kind: EvaluationKind | None) -> dict[str, str]:
    match kind:
        case Fold(index, of):
            return {Tag.FOLD: str(index), Tag.FOLDS: str(of)}
        case Retraining(index):
            return {Tag.REPEAT: str(index)}
        case ChampionVersion(version):
            return {Tag.VERSION: str(version)}
    return {}


def _kind_of(tags: Mapping[str, str]) -> EvaluationKind | None:
    """The inverse of :func:`kind_tags`.

    Raises:
        ValueError: The tags do not name an evaluation.
    """

    def counted(key: str) -> int:
        if (found := parse_count(tags.get(key, ""), 9)) is None:
            raise ValueError(f"its tag {key} is {tags.get(key)!r}")
        return found

    match tags.get(Tag.ROLE):
        case "test":
            return None
        case "fold":
            return Fold(counted(Tag.FOLD), counted(Tag.FOLDS))
        case "seed":
            return Retraining(counted(Tag.REPEAT))
        case "champion":
            return ChampionVersion(counted(Tag.VERSION))
    raise ValueError("it is not an evaluation")


def evaluation_of(run: Run, spec: StudySpec) -> Evaluation | None:
    """Decode a run as an evaluation of the study; None if its tags do not describe one."""
    tags = run.tags
    number, attempt = parse_count(tags.get(Tag.TRIAL, ""), 6), parse_count(tags.get(Tag.ATTEMPT, ""), 6)
    try:
        kind = _kind_of(tags)
    except ValueError:
        return None
    fidelity = tags.get(Tag.FIDELITY)
    readable = fidelity is None or re.fullmatch(r"\d+(\.\d+)?(e[-+]?\d+)?", fidelity)
    if number is None or attempt is None or not readable:
        return None
    reason, lost = tags.get(Tag.REASON, ""), tags.get(Tag.LOST, "")
    losses, unknown = _losses_of(run, spec)
    state = _state_of(run, unknown, lost=bool(lost))
    if complete := state is TrialState.COMPLETE:
        reason = lost = ""
    elif state is TrialState.FAILED:
        reason = reason or _without_value(run, unknown, spec)
    return Evaluation(
        number=number,
        kind=kind,
        fidelity=None if fidelity is None else float(fidelity),
        attempt=attempt,
        state=state,
        loss=losses[0] if complete else None,
        lost=lost,
        reason=reason,
        run_id=run.id,
        metrics={key: value for key, value in run.metrics.items() if not key.startswith(HIDDEN)},
        start=run.start,
        end=run.end,
        losses=losses if complete and spec.metrics else (),
    )
