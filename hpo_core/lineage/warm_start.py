"""Imports past MLflow runs as prior knowledge of a study; found once, then fixed.

Which runs a query finds changes by the hour, and a proposal must not. So the import is written down the first time that
a study is opened with a ``warm_start``, by the rule of ``docs/decisions/0001-claims.md``: a run that holds all of it is
created first, in the experiment :data:`~hpo_core.ledger.tags.CLAIMS`, and then claimed by the write-once param
``warm_start`` of the study's claims. Of several flows that start at once one wins, and all read the winner's run; a
flow that dies before the claim leaves a run that nobody looks at.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.storable import MAX_VALUE
from hpo_core.history.prior import Observation, Source, averaged
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import FAILED, FINISHED, Run, Store
from hpo_core.ledger.tags import CLAIMS, FOLD_VALUE, Tag, join_tag, split_tag
from hpo_core.space.configuration import Scalar
from hpo_core.space.parameters import Fixed, Float, Int, Parameter
from hpo_core.space.search_space import SearchSpace
from hpo_core.study.sections import WarmStart
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")

SOURCES = 10
"""The newest sources that are imported; each costs a model of its own."""

OBSERVATIONS = 1_000
"""The largest number of runs that are imported, the same number from each source."""

CLAIM = "warm_start"

MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Import:
    """What was imported.

    Args:
        given: The entries of ``warm_start`` that it was made from.
        sources: What fitted.
        report: What fitted and what did not, a line an entry.
    """

    given: tuple[WarmStart, ...]
    sources: tuple[Source, ...]
    report: tuple[str, ...]


def warm_start(ledger: Ledger, on_message: Callable[[str], Any] = log.info) -> None:
    """Give a study the past that its specification names; nothing happens where it names none.

    Raises:
        InputError: An experiment is unknown, a query is not valid, or what was imported before is gone.
    """
    spec = ledger.spec
    if not spec.warm_start:
        return
    known = recall(ledger)
    imported = known or _settle(ledger)
    ledger.prior = imported.sources
    if known is None:
        for line in imported.report:
            on_message(f"{spec.name}: warm start: {line}")
        if not imported.sources:
            log.warning("%s: nothing that warm_start names fits, so the study starts cold", spec.name)
    elif imported.given != tuple(spec.warm_start):
        on_message(f"{spec.name}: warm_start: what was imported when the study began stays; a new list changes nothing")
    if imported.sources and not spec.strategy.make().learns_from_prior():
        log.warning("%s: the strategy %r makes no use of what was imported", spec.name, spec.strategy.name)


def recall(ledger: Ledger) -> Import | None:
    """What was imported into a study before; None if nothing was.

    Raises:
        InputError: The run that holds it is gone or damaged.
    """
    id = ledger.study_run.tags.get(Tag.WARM_START) or ledger.store.get(ledger.claims_run).params.get(CLAIM)
    return None if id is None else _unpack(ledger.store.get(id), ledger.spec)


def _settle(ledger: Ledger) -> Import:
    """Import now, or take over what another flow has just imported."""
    store, spec = ledger.store, ledger.spec
    found = collect(store, spec, ledger.study_run)
    claims = store.experiment(CLAIMS, create=True, unlisted=True)
    assert claims is not None
    note = f"The past runs that study {spec.name!r} learns from. Do not delete it while the study lives."
    tags = {Tag.ROLE: "warm_start", Tag.STUDY: spec.name, "mlflow.note.content": note}
    run = store.create_run(claims, f"{spec.name} warm start", tags | split_tag(Tag.IMPORTED, _pack(found)))
    store.set_status(run.id, FINISHED)
    id = run.id
    if not ledger.claim(CLAIM, run.id):
        store.delete_run(run.id)
        id = store.get(ledger.claims_run).params[CLAIM]
        found = _unpack(store.get(id), spec)
    # Copies for people and for quick reading; whoever writes them, they say the same.
    report = split_tag(Tag.WARM_START_REPORT, "\n".join(found.report))
    ledger.study.log({Tag.WARM_START: id, **report})
    return found


def _pack(found: Import) -> str:
    data = {
        "given": [entry.model_dump(mode="json") for entry in found.given],
        "sources": [[s.name, s.align, list(map(_row, s.observations))] for s in found.sources],
        "report": found.report,
    }
    return base64.b64encode(zlib.compress(json.dumps(data).encode(), 9)).decode()


def _row(observation: Observation) -> list[Any]:
    """An observation as :func:`_observation` reads it; the losses only if there are several."""
    losses = [list(observation.losses)] if observation.losses else []
    return [dict(observation.config), observation.loss, *losses]


def _unpack(run: Run, spec: StudySpec) -> Import:
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(join_tag(Tag.IMPORTED, run.tags)), MAX_BYTES)
        data = json.loads(text)
        sources = tuple(
            Source(name, align, tuple(_observation(spec, *row) for row in rows))
            for name, align, rows in data["sources"]
        )
        return Import(tuple(WarmStart(**entry) for entry in data["given"]), sources, tuple(data["report"]))
    except (ValueError, KeyError, TypeError, zlib.error, RecursionError) as error:
        raise InputError(
            "warm_start",
            f"what was imported (run {run.id} in experiment {CLAIMS}) cannot be read ({error})",
            "take warm_start out of the study, or give the study a new name",
        ) from None


def _observation(
    spec: StudySpec, config: Mapping[str, Scalar], loss: float | None, losses: Sequence[float] = ()
) -> Observation:
    if loss is not None and not all(map(math.isfinite, (loss, *losses))):
        raise ValueError(f"a loss is {[loss, *losses]}")
    if not spec.editions:  # otherwise it was imported into another space; see prior_in_space
        config = spec.search_space.validated(config, check_constraints=False)
    return Observation(config, loss, tuple(losses))


# -- what fits ------------------------------------------------------------------------------------------------------


class NotImportable(Exception):
    """Why a run is not imported, in words that many runs may share."""


def collect(store: Store, spec: StudySpec, study: Run) -> Import:
    """The runs that ``warm_start`` names, as far as they fit the space of a study.

    Args:
        store: MLflow.
        spec: The study's specification.
        study: The study's own run; what stands below it is not the past.

    Raises:
        InputError: An experiment is unknown, or a query is not valid.
    """
    taken: set[str] = set()
    groups: dict[tuple[str, str], list[tuple[Run, Observation]]] = {}
    names: dict[tuple[str, str], str] = {}
    report: list[str] = []
    for i, entry in enumerate(spec.warm_start):
        found = [run for run in _find(store, entry, f"warm_start.{i}") if not _is_scaffold(run, study)]
        full = _full_fidelities(found)
        misfits: Counter[str] = Counter()
        for run in found:
            try:
                if run.id in taken:
                    raise NotImportable("imported already")
                observation = _fitted(run, spec, full[_group(run)])
            except NotImportable as why:
                misfits[str(why)] += 1
                continue
            taken.add(run.id)
            key = entry.align, _group(run)
            groups.setdefault(key, []).append((run, observation))
            names.setdefault(key, run.tags.get(Tag.STUDY) or entry.label)
        report.append(_line(entry, len(found), misfits))
    newest = sorted(groups, key=lambda key: (max(run.start for run, _ in groups[key]), key))[-SOURCES:]
    if len(newest) < len(groups):
        report.append(f"of {len(groups)} sources the newest {SOURCES} are taken")
    most = OBSERVATIONS // max(len(newest), 1)
    sources = [Source(names[key], key[0], _thinned([o for _, o in groups[key]], most)) for key in newest]
    if any(len(groups[key]) > most for key in newest):
        report.append(f"of a source at most {most} runs are taken, the better half and an even choice of the rest")
    return Import(tuple(spec.warm_start), tuple(sources), tuple(report))


def _find(store: Store, entry: WarmStart, field: str) -> list[Run]:
    if not entry.experiment:
        return store.find(store.experiments(), entry.query, field)
    id = store.experiment(entry.experiment, create=False)
    if id is None:
        raise InputError(
            field, f"no experiment named {entry.experiment!r}", "give the name of one as MLflow's UI shows it"
        )
    return store.find([id], entry.query, field)


def _is_scaffold(run: Run, study: Run) -> bool:
    """Whether a run is not a training: a study, its claims, or one of the very study that is to learn."""
    role = run.tags.get(Tag.ROLE, "trial")
    return role != "trial" or run.tags.get("mlflow.parentRunId") == study.id


def _group(run: Run) -> str:
    """What the losses of a run compare with: the runs below the same parent, else those of the experiment."""
    return run.tags.get("mlflow.parentRunId") or run.experiment


def _fidelity(run: Run) -> float:
    """How far a run was trained; infinite, which is to the end, where it does not say."""
    try:
        return float(run.tags.get(Tag.REACHED) or run.tags.get(Tag.FIDELITY, "inf"))
    except ValueError:
        return math.inf


def _full_fidelities(runs: Iterable[Run]) -> dict[str, float]:
    """The highest fidelity of each group; infinite where runs name none."""
    full: dict[str, float] = {}
    for run in runs:
        full[_group(run)] = max(full.get(_group(run), -math.inf), _fidelity(run))
    return full


def _fitted(run: Run, spec: StudySpec, full: float) -> Observation:
    """A run as an observation.

    Raises:
        NotImportable: It is none.
    """
    if run.status not in (FINISHED, FAILED):
        raise NotImportable(f"{run.status.lower()}")
    if Tag.LOST in run.tags:
        raise NotImportable("lost with its flow")
    if _fidelity(run) < full:
        raise NotImportable("of a lower fidelity")
    wanted = run.tags.get(Tag.FOLDS_WANTED)
    if wanted is not None and run.status == FINISHED and f"{FOLD_VALUE}{wanted}" not in run.metrics:
        raise NotImportable("ended after some of its folds")
    values = [run.metrics.get(each.metric, math.nan) for each in spec.objectives]
    if run.status == FINISHED:
        for each in spec.objectives:
            if each.metric not in run.metrics:
                raise NotImportable(f"no metric {each.metric!r}")
    config = fitting_config(spec.search_space, run.params)
    if run.status == FAILED or not all(abs(value) < MAX_VALUE for value in values):
        return Observation(config, None)
    losses = tuple(each.loss(value) for each, value in zip(spec.objectives, values, strict=True))
    return Observation(config, losses[0], losses if spec.metrics else ())


def fitting_config(space: SearchSpace, params: Mapping[str, str]) -> dict[str, Scalar]:
    """The configuration of this space that a run's params hold.

    Other params, and those of parameters that the configuration does not use, are passed over: many scripts log all
    that they have. Constraints are not looked at, since what lies beyond them tells something, too.

    Raises:
        NotImportable: A parameter is missing, or has a value that is not one of the space's.

    >>> from hpo_core.space.search_space import Choice
    >>> space = SearchSpace({"kind": Choice(choices=["a", "b"]), "n": Int(low=1, high=9, when={"kind": ["b"]})})
    >>> fitting_config(space, {"kind": "b", "n": "3.0", "user": "me"}), fitting_config(space, {"kind": "a", "n": "99"})
    ({'kind': 'b', 'n': 3}, {'kind': 'a'})
    """
    config: dict[str, Scalar] = {}
    for name, parameter in space.parameters.items():
        if not space.active(name, config):
            continue
        if (key := space.keys[name]) in params:
            config[name] = _value(name, parameter, params[key])
        elif isinstance(parameter, Fixed):
            config[name] = parameter.value
        else:
            raise NotImportable(f"{name!r} is missing")
    return space.validated(config, check_constraints=False)


def _value(name: str, parameter: Parameter, text: str) -> Scalar:
    try:
        if isinstance(parameter, Int) and float(text).is_integer():
            text = str(int(float(text))) if "." in text or "e" in text.lower() else text
        return parameter.from_string(text)
    except (ValueError, OverflowError):
        pass
    if not isinstance(parameter, Float | Int):
        alike = [value for value in parameter.options if _reads_as(text, value)]
        if len(alike) == 1:
            return alike[0]
        raise NotImportable(f"{name!r} is none of its choices")
    try:
        float(text)
    except ValueError:
        raise NotImportable(f"{name!r} is not a number") from None
    raise NotImportable(f"{name!r} is out of range")


def _reads_as(text: str, value: Scalar) -> bool:
    """Whether another tool may have written an option so: 16 as 16.0, 1e-05 as 0.00001, True as true, None as null.

    >>> [_reads_as("16.0", value) for value in (16, 16.5, "16")]
    [True, False, False]
    """
    if value is None or isinstance(value, bool):
        return text.strip().lower() in (str(value).lower(), json.dumps(value))
    try:
        return isinstance(value, int | float) and float(text) == value
    except ValueError:
        return False


def _thinned(observations: Sequence[Observation], most: int) -> tuple[Observation, ...]:
    """One for each configuration, up to the limit: the better half of them, and an even choice of the rest."""
    ordered = Source("", "rank", averaged(observations)).observations
    if len(ordered) <= most:
        return ordered
    half = most // 2
    step = (len(ordered) - half) / (most - half)
    return (*ordered[:half], *(ordered[half + int(i * step)] for i in range(most - half)))


def _line(entry: WarmStart, count: int, misfits: Counter[str]) -> str:
    """What became of the runs of one entry.

    >>> _line(WarmStart(experiment="digits"), 5, Counter({"'x' is missing": 2}))
    "digits (standardise): 3 of 5 runs fit; left out: 2 x 'x' is missing"
    """
    line = f"{entry.label} ({entry.align}): {count - misfits.total()} of {count} runs fit"
    if misfits:
        line += "; left out: " + ", ".join(
            f"{n} x {why}" for why, n in sorted(misfits.items(), key=lambda m: (-m[1], m[0]))
        )
    return line
