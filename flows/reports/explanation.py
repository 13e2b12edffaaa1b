"""Formats the explanation of a trial or of a study, as lines for a terminal and as data for JSON."""

from __future__ import annotations

import math
from typing import Any

from hpo_core.history.history import History
from hpo_core.history.spending import EXPECTED, spent
from hpo_core.history.trial import TrialState
from hpo_core.lineage.replay import Explanation, Neighbour
from hpo_core.space.configuration import displayed
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.ped_anova import TENTH, Deciding, TooFew, deciding
from hpo_flows.reports.text import metric_value, metric_values, number, one_line, outcome_text


def expectation(spec: StudySpec, found: Explanation, place: int = 0) -> dict[str, float | None]:
    """What the surrogate expected of the trial in an objective, in its own direction, and what was observed."""
    notes, objective, ending = found.trial.notes, spec.objectives[place], f"_{place + 1}" if place else ""
    mean, std = (_float(notes.get(f"{key}{ending}")) for key in ("predicted_mean", "predicted_std"))
    score = _float(notes.get("acquisition"))
    observed = metric_values(spec, found.trial).get(objective.metric)
    expected = None if mean is None else objective.sign * mean
    off = None if None in (expected, observed) or not std else (observed - expected) / std  # type: ignore[operator]
    return {"mean": expected, "std": std, "acquisition": score, "observed": observed, "off_by_std": off}


def _float(value: object) -> float | None:
    try:
        result = float(str(value))
    except ValueError:
        return None
    return result if math.isfinite(result) else None


def lines(spec: StudySpec, found: Explanation) -> list[str]:
    """The explanation for a terminal."""
    trial = found.trial
    shown = [f"Trial {trial.number} of {spec.name} ({_outcome(spec, found)})"]
    shown += [f"  {name} = {value}" for name, value in trial.config.items()]
    shown.append(found.trial.proposed)
    if found.space:
        shown.append(f"Space: {found.space}")
    for place, objective in enumerate(spec.objectives):
        expected = expectation(spec, found, place)
        if expected["mean"] is None:
            continue
        name = f"{objective.metric} " if spec.metrics else ""
        off = expected["off_by_std"]
        far = "" if off is None else f", which is {off:+.1f} standard deviations off"
        interval = f"{number(expected['mean'])} ± {number(expected['std'])}"
        shown.append(f"Expected {name}{interval}, observed {number(expected['observed'])}{far}")
    if (score := expectation(spec, found)["acquisition"]) is not None:
        shown.append(f"Acquisition {number(score)}")
    if (priced := _float(trial.notes.get(EXPECTED))) is not None:
        observed_cost = "not known" if trial.cost is None else number(trial.cost)
        shown.append(f"Expected cost {number(priced)}, observed {observed_cost}")
    if found.seen is not None:
        counts = (
            f"{len(found.seen.complete)} complete, {len(found.seen.failed)} failed, {len(found.seen.running)} running"
        )
        shown.append(f"History {found.digest}: verified ({counts})")
        if found.seen.prior:
            past = sum(len(source.observations) for source in found.seen.prior)
            shown.append(f"Warm start: {past} runs from {', '.join(source.name for source in found.seen.prior)}")
    shown.append(f"Replay: {found.verdict}")
    shown += [f"  note: {caveat}" for caveat in found.caveats]
    if found.incumbent is not None:
        what = "Compromise" if spec.metrics else "Incumbent"
        shown.append(f"{what} then: {_neighbour(spec, found.incumbent)}")
    shown += [f"Near: {_neighbour(spec, neighbour)}" for neighbour in found.nearest]
    return list(map(_single, shown))


def _single(line: str) -> str:
    """A line that is safe for a terminal, indented as it was."""
    return f"  {one_line(line, 1000)}" if line.startswith("  ") else one_line(line, 1000)


def study_lines(spec: StudySpec, history: History) -> list[str]:
    """What the study has shown so far, for a terminal: what sets its best trials apart, what a next one promises."""
    count = len(history.complete)
    shown = [f"Study {spec.name}: {count} complete trial{'' if count == 1 else 's'}"]
    for what, found in _decided(spec, history):
        if isinstance(found, TooFew):
            shown.append(f"What sets {what} apart: estimated from {found.needed} complete trials on")
            continue
        shown.append(f"What sets {what} apart (PED-ANOVA, {found.target} of {found.region} trials; 90 % intervals):")
        shown += [f"  {name} {share:.0%} ({low:.0%} to {high:.0%})" for name, share, low, high in _seen(found)]
        shown += [] if found.seen.any() else ["  no parameter more than chance would"]
    if spec.cost and len(spec.objectives) == 1:
        promise = spec.promise(history.searched)
        line = (
            "too little is known to say what a next trial promises" if promise is None else spec.promise_line(promise)
        )
        shown.append(f"{line[0].upper()}{line[1:]}")
    if spec.cost:
        shown.append(f"Spent: {number(spent(history))} {spec.cost}")
    if why := spec.stop_reason(history, 0.0):
        shown.append(f"No further trial is to start: {why}")
    return list(map(_single, shown))


def study_data(spec: StudySpec, history: History) -> dict[str, Any]:
    """The same as JSON."""
    promise = spec.promise(history.searched) if spec.cost and len(spec.objectives) == 1 else None
    return {
        "study": spec.name,
        "complete": len(history.complete),
        "best": [
            {
                "of": what,
                "needed": found.needed if isinstance(found, TooFew) else None,
                "importance": {}
                if isinstance(found, TooFew)
                else {
                    name: {"share": share, "low": low, "high": high, "seen": seen}
                    for name, share, low, high, seen in zip(
                        found.names,
                        *(each.tolist() for each in (found.share, found.low, found.high, found.seen)),
                        strict=True,
                    )
                },
            }
            for what, found in _decided(spec, history)
        ],
        "spent": spent(history) if spec.cost else None,
        "promise": None if promise is None else {"gain": promise.gain, "cost": promise.cost},
        "ended": spec.stop_reason(history, 0.0),
    }


def _decided(spec: StudySpec, history: History) -> list[tuple[str, Deciding | TooFew]]:
    if len(spec.objectives) > 1:
        return []  # which trials are best has no order; the report shows each metric by itself
    regions = {"the best trials": 1.0, "the best of the best tenth": TENTH}
    return [(what, deciding(spec.search_space, history, region)) for what, region in regions.items()]


def _seen(found: Deciding) -> list[tuple[str, float, float, float]]:
    every = zip(found.names, found.share.tolist(), found.low.tolist(), found.high.tolist(), found.seen, strict=True)
    return [(name, share, low, high) for name, share, low, high, seen in every if seen]


def _outcome(spec: StudySpec, found: Explanation) -> str:
    trial = found.trial
    if trial.state is TrialState.COMPLETE:
        return outcome_text(spec, trial) + (f", {trial.reason}" if trial.reason else "")
    return f"{trial.state.value}: {trial.reason}" if trial.reason else trial.state.value


def _neighbour(spec: StudySpec, neighbour: Neighbour) -> str:
    each = (f"{name} {displayed(old)} -> {displayed(new)}" for name, (old, new) in neighbour.changes.items())
    changes = ", ".join(each)
    where = f"trial {neighbour.trial.number}, {outcome_text(spec, neighbour.trial)}"
    return f"{where}, distance {neighbour.distance:.3g}: {changes or 'no difference'}"


def data(spec: StudySpec, found: Explanation) -> dict[str, Any]:
    """The explanation as JSON."""
    seen = found.seen
    return {
        "study": spec.name,
        "trial": found.trial.number,
        "state": found.trial.state.value,
        "config": dict(found.trial.config),
        "notes": dict(found.trial.notes),
        "origin": found.origin,
        "space": {
            "edition": found.edition,
            "editions": found.editions,
            "outside": dict(found.outside),
        },
        "expected": expectation(spec, found) if not spec.metrics else _expectations(spec, found),
        "history": {
            "digest": found.digest,
            "verified": seen is not None,
            "missing": list(found.missing),
            "complete": None if seen is None else len(seen.complete),
            "failed": None if seen is None else len(seen.failed),
            "running": None if seen is None else [trial.number for trial in seen.running],
            "warm_start": None if seen is None else {s.name: len(s.observations) for s in seen.prior},
        },
        "replay": {
            "same": found.same,
            "config": None if found.replayed is None else dict(found.replayed.config),
            "said": found.verdict,
            "caveats": list(found.caveats),
        },
        "incumbent": None if found.incumbent is None else _neighbour_data(spec, found.incumbent),
        "nearest": [_neighbour_data(spec, neighbour) for neighbour in found.nearest],
    }


def _expectations(spec: StudySpec, found: Explanation) -> dict[str, Any]:
    return {each.metric: expectation(spec, found, place) for place, each in enumerate(spec.objectives)}


def _neighbour_data(spec: StudySpec, neighbour: Neighbour) -> dict[str, Any]:
    return {
        "trial": neighbour.trial.number,
        "value": metric_value(spec, neighbour.trial),
        **({"values": metric_values(spec, neighbour.trial)} if spec.metrics else {}),
        "distance": neighbour.distance,
        "changes": {name: list(values) for name, values in neighbour.changes.items()},
    }
