"""Opens a study: creates it, or finds and resumes it, so that concurrent flows end up with one study."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hpo_core.base.errors import InputError, StudyUnknown, TrackingRefusal
from hpo_core.base.source import source_tags
from hpo_core.ledger.decode import stored_spec, written_spec
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import FINISHED, Run, Store
from hpo_core.ledger.study_run import edition_tags, instruction_tags, instructions_of
from hpo_core.ledger.tags import CLAIMS, SCHEMA, WITHDRAWN, Tag, join_tag, replaced_tag, split_tag
from hpo_core.lineage.space_change import change_space as change_space_of
from hpo_core.space.configuration import Scalar
from hpo_core.study.editions import has_changed, has_grown, in_edition_of
from hpo_core.study.names import study_name
from hpo_core.study.resume import CHANGES_SPACE, compare, with_what_holds
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")


ELECTION_SECONDS = 10.0
"""How long a flow that creates a study waits for another that started creating it earlier."""


# -- opening a study --------------------------------------------------------------------------------------------


def _study_runs(store: Store, experiments: Sequence[str], name: str) -> list[Run]:
    return store.search(experiments, {Tag.ROLE: "study", Tag.STUDY: name})


def _elected(runs: Sequence[Run], name: str) -> Run | None:
    """The elected run among those with the study's name: the one whose param ``study`` is set to it.

    Raises:
        InputError: Two runs are elected.
    """
    elected = [run for run in runs if run.params.get("study") == name]
    if len(elected) > 1:
        raise InputError(
            f"study {name!r}",
            f"two runs claim to be it: {', '.join(run.id for run in elected)}",
            "delete the wrong one in MLflow (mlflow runs delete --run-id ID)",
        )
    return elected[0] if elected else None


def open_study(
    store: Store,
    spec: StudySpec,
    *,
    on_message: Callable[[str], Any] = log.info,
    tags: Mapping[str, str] | None = None,
    defaults: Mapping[str, Scalar] | None = None,
    change_space: bool = False,
) -> Ledger:
    """Open the study of this specification: create it if new, otherwise compare and resume it.

    Several flows may call this concurrently; see :func:`_elect` for why they end up with one study.

    Args:
        store: MLflow.
        spec: The study.
        on_message: Told what is taken over, and to which total a study goes on that is to have more trials.
        tags: Tags of the study's run, which it has from its first moment.
        defaults: The values of parameters in trials from before they were there, so that a space may have grown; None
            if it may not.
        change_space: Whether the study goes on in the given space if that is another one; see
            :mod:`hpo_core.lineage.space_change`.

    Raises:
        StudyConflict: The stored space, metric or direction is another.
        InputError: The experiment was deleted, two studies have this name, the space has grown while a flow runs, or
            trials lack a parameter of the new space.
    """
    experiment = store.experiment(spec.experiment, create=False)
    found = [] if experiment is None else _study_runs(store, [experiment], spec.name)
    run = _elected(found, spec.name) or _moved(store, spec.name, spec.experiment, on_message)
    if run is None:
        if experiment is None:
            _claims_experiment(store)  # first: MLflow lists the newest experiment at the top
        experiment = store.experiment(spec.experiment, create=True)
        assert experiment is not None
        run = _elect(store, experiment, spec, tags or {})
    changes = {key: value for key, value in (tags or {}).items() if run.tags.get(key) != value}
    written, stored = written_spec(run), stored_spec(run)
    if run.experiment == experiment:  # whatever that was called when the study was begun
        written, stored = (each.model_copy(update={"experiment": spec.experiment}) for each in (written, stored))
    spec = as_resumed(spec, stored)
    if spec.stop.more:
        history = Ledger(store, stored, run).load()
        # A run that came to its end has said so; a killed one leaves the study RUNNING.
        spec, why = spec.with_total_trials(stored, spec.started(history), run.status == FINISHED)
        on_message(f"{spec.name}: {why}")
        changes[Tag.TARGET] = why
    changing = _may_change(stored, spec, defaults, change_space)
    now, overruled = with_what_holds(written, spec, instructions_of(run).every)
    alike = changing or not has_changed(stored, spec)  # but for what the file says of earlier trials
    before = stored.model_copy(update={key: getattr(spec, key) for key in CHANGES_SPACE}) if alike else stored
    taken_over, held = compare(before, now), compare(spec, now)
    if changing:
        spec, begun = _in_new_space(Ledger(store, stored, run), spec, defaults, on_message)
        now, changes = in_edition_of(now, spec), changes | begun
    elif change_space:
        on_message(f"{spec.name}: has this space already, so --change-space changes nothing")
    if join_tag(Tag.SPEC, run.tags) != spec.to_json():
        for line in taken_over:
            on_message(f"taken over: {spec.name}: {line}")
        changes |= replaced_tag(Tag.SPEC, spec.to_json(), run.tags) | instruction_tags(overruled)
    for line in held:
        on_message(f"hpo set holds: {spec.name}: {line}")
    if changes:
        store.log(run.id, [], {}, changes)
    return Ledger(store, now, run)


def as_resumed(spec: StudySpec, stored: StudySpec) -> StudySpec:
    """A specification as one that goes on with the stored one, with what that has and no study file says.

    What has begun without repeats goes on without, and who asks for trials does not take the objective away.
    """
    spec = in_edition_of(spec, stored)
    kept = {"repeats", "objective"} - spec.model_fields_set
    return spec.model_copy(update={key: getattr(stored, key) for key in kept})


def _may_change(stored: StudySpec, spec: StudySpec, defaults: Mapping[str, Scalar] | None, change_space: bool) -> bool:
    """Whether a new edition begins. Beliefs change nothing about earlier trials, so nobody has to ask for that."""
    if has_changed(stored, spec):
        return change_space or (defaults is not None and has_grown(stored, spec))
    return stored.prior != spec.prior


def _in_new_space(
    ledger: Ledger, spec: StudySpec, defaults: Mapping[str, Scalar] | None, on_message: Callable[[str], Any]
) -> tuple[StudySpec, dict[str, str]]:
    """The specification of a study that goes on in another space, and the tags that say so.

    Raises:
        InputError: Trials lack a parameter; or a script's space has grown while a flow works in the old one.
    """
    change = change_space_of(ledger, spec, defaults)
    new = [name for name in spec.space if name not in ledger.spec.space]
    if defaults is None:
        for line in change.lines() if has_changed(ledger.spec, spec) else ():
            on_message(line)
    elif ledger.owners():
        problem = f"its space has grown ({', '.join(new)}), and a flow works on it in the old one"
        raise InputError(f"study {spec.name!r}", problem, "stop that flow first (hpo stop)")
    elif new:
        added = ", ".join(f"{name} ({defaults[name]} in the trials so far)" for name in new if name in defaults)
        on_message(f"{spec.name}: goes on with new parameters: {added or ', '.join(new)}")
    return change.new, edition_tags(ledger.spec, change.new, change.added)


def _moved(store: Store, name: str, experiment: str, on_message: Callable[[str], Any] = log.warning) -> Run | None:
    """The study's run, if its experiment was given another name since: a study knows the one that it was begun in.

    Raises:
        InputError: There are two.
    """
    experiments = store.experiments()
    runs = _study_runs(store, experiments, name) if experiments else []
    moved = [run for run in runs if run.params.get("study") == name and _begun_in(run) == experiment]
    if len(moved) > 1:
        raise InputError(
            f"study {name!r}",
            f"the experiment {experiment!r} has another name now, and {len(moved)} could be it: "
            + ", ".join(run.experiment for run in moved),
            "name the right one (experiment: ...), or rename it back in MLflow",
        )
    if moved:
        on_message(f"{name}: the experiment {experiment!r} has another name in MLflow now; the study goes on there")
    return moved[0] if moved else None


def _begun_in(run: Run) -> str | None:
    """The name that a study's experiment had when its specification was stored; None if that is damaged."""
    with contextlib.suppress(InputError):
        return stored_spec(run).experiment
    return None


def _elect(store: Store, experiment: str, spec: StudySpec, tags: Mapping[str, str]) -> Run:
    """The one run that is the study, whoever else is creating it now.

    A candidate becomes the study by the write-once param ``study``, and is withdrawn by the same param with another
    value. Each flow creates its candidate before it looks for others, and elects it only after withdrawing all that
    it sees; of two flows at least one sees the other's. The oldest candidate goes first, so that they do not
    withdraw each other for ever; one that does not move (its flow died) is withdrawn after :data:`ELECTION_SECONDS`.
    """
    mine: Run | None = None
    deadline = time.monotonic() + ELECTION_SECONDS
    while True:
        runs = _study_runs(store, [experiment], spec.name)
        if (elected := _elected(runs, spec.name)) is not None:
            if mine is not None and mine.id != elected.id:
                _withdraw(store, mine)
            return elected
        waiting = [run for run in runs if "study" not in run.params]
        if mine is None or all(run.id != mine.id for run in waiting):
            mine = _create_study(store, experiment, spec, tags)
            continue
        first = min(waiting, key=lambda run: (run.start, run.id))
        if first.id != mine.id and time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        others = [run for run in waiting if run.id != mine.id]
        if all(_decided(store, other, WITHDRAWN) for other in others):
            for other in others:
                store.delete_run(other.id)
            if _decided(store, mine, spec.name):
                return mine


def _decided(store: Store, candidate: Run, value: str) -> bool:
    """Write a candidate's param ``study``. What another flow has withdrawn and deleted meanwhile takes none."""
    try:
        return store.claim(candidate.id, "study", value)
    except TrackingRefusal as refused:
        if "deleted" not in str(refused):
            raise
        return value == WITHDRAWN


def _create_study(store: Store, experiment: str, spec: StudySpec, extra: Mapping[str, str]) -> Run:
    note = f"The trial numbers that flows have claimed in study {spec.name!r}. Do not delete it while the study lives."
    claims = store.create_run(
        _claims_experiment(store), spec.name, {Tag.ROLE: "claims", Tag.STUDY: spec.name, "mlflow.note.content": note}
    )
    store.set_status(claims.id, FINISHED)
    tags = {
        Tag.ROLE: "study",
        Tag.SCHEMA: SCHEMA,
        Tag.STUDY: spec.name,
        Tag.CLAIMS: claims.id,
        **source_tags(spec.objective),
        **split_tag(Tag.SPEC, in_edition_of(spec.as_new_study, None).to_json()),
        **extra,
    }
    return store.create_run(experiment, spec.name, tags)


def _claims_experiment(store: Store) -> str:
    """The id of the experiment that holds all claims; created if absent."""
    id = store.experiment(CLAIMS, create=True, restore=True, unlisted=True)
    assert id is not None
    return id


def _withdraw(store: Store, candidate: Run) -> None:
    store.delete_run(candidate.tags[Tag.CLAIMS])
    store.delete_run(candidate.id)


def find_study(store: Store, name: str, experiment: str | None = None) -> Ledger:
    """The study of this name.

    Args:
        store: Where to look.
        name: The study's name.
        experiment: The name of its experiment; None to look into all of them.

    Raises:
        StudyUnknown: There is none.
        InputError: No study can have this name, there is more than one, or its experiment was deleted.
    """
    study_name(name)
    if experiment is None:
        experiments = store.experiments()
    else:
        id = store.experiment(experiment, create=False)
        experiments = [] if id is None else [id]
    runs = _study_runs(store, experiments, name) if experiments else []
    found = [run for run in runs if run.params.get("study") == name]
    if not found and experiment is not None and (moved := _moved(store, name, experiment)) is not None:
        found = runs = [moved]
    if not found:
        known = {run.params.get("study", "") for run in store.search(experiments, {Tag.ROLE: "study"})}
        near = [repr(each) for each in get_close_matches(name, sorted(known - {"", WITHDRAWN}))]
        remedy = f"did you mean {' or '.join(near)}?" if near else "give the study file, or start it with hpo tune"
        raise StudyUnknown("study", f"no study named {name!r} in the MLflow store", remedy)
    if len({run.experiment for run in found}) > 1:
        raise InputError("study", f"{len(found)} experiments have a study {name!r}", "give the study file instead")
    run = _elected(found, name)
    assert run is not None
    return Ledger(store, stored_spec(run), run)
