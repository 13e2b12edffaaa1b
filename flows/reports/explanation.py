"""Formats the explanation of a trial, as lines for a terminal and as data for JSON."""

from __future__ import annotations

import math
from typing import Any

from hpo_core.history.trial import TrialState
from hpo_core.lineage.replay import Explanation, Neighbour
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.text import metric_value, metric_values, number, one_line, outcome_text, show


def expectation(spec: StudySpec, found: Explanation) -> dict[str, float | None]:
    """What the surrogate expected of the trial, in the metric's own direction, and what was observed."""
    notes = found.trial.notes
    mean, std, score = (_float(notes.get(key)) for key in ("predicted_mean", "predicted_std", "acquisition"))
    observed = metric_value(spec, found.trial)
    expected = None if mean is None else spec.sign * mean
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
    trial, expected = found.trial, expectation(spec, found)
    observed = number(expected["observed"])
    told = [f"Trial {trial.number} of {spec.name} ({_outcome(spec, found)})"]
    told += [f"  {name} = {value}" for name, value in trial.config.items()]
    told.append(found.trial.proposed)
    if expected["mean"] is not None:
        off = (
            ""
            if expected["off_by_std"] is None
            else f", which is {expected['off_by_std']:+.1f} standard deviations off"
        )
        told.append(f"Expected {number(expected['mean'])} ± {number(expected['std'])}, observed {observed}{off}")
    if expected["acquisition"] is not None:
        told.append(f"Acquisition {number(expected['acquisition'])}")
    if found.seen is not None:
        counts = (
            f"{len(found.seen.complete)} complete, {len(found.seen.failed)} failed, {len(found.seen.running)} running"
        )
        told.append(f"History {found.digest}: verified ({counts})")
        if found.seen.prior:
            past = sum(len(source.observations) for source in found.seen.prior)
            told.append(f"Warm start: {past} runs from {', '.join(source.name for source in found.seen.prior)}")
    told.append(f"Replay: {found.verdict}")
    told += [f"  note: {caveat}" for caveat in found.caveats]
    if found.incumbent is not None:
        told.append(f"Incumbent then: {_neighbour(spec, found.incumbent)}")
    told += [f"Near: {_neighbour(spec, neighbour)}" for neighbour in found.nearest]
    return [one_line(line, 1000) if not line.startswith("  ") else f"  {one_line(line, 1000)}" for line in told]


def _outcome(spec: StudySpec, found: Explanation) -> str:
    trial = found.trial
    if trial.state is TrialState.COMPLETE:
        return outcome_text(spec, trial) + (f", {trial.reason}" if trial.reason else "")
    return f"{trial.state.value}: {trial.reason}" if trial.reason else trial.state.value


def _neighbour(spec: StudySpec, neighbour: Neighbour) -> str:
    changes = ", ".join(f"{name} {show(old)} -> {show(new)}" for name, (old, new) in neighbour.changes.items())
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
        "expected": expectation(spec, found),
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


def _neighbour_data(spec: StudySpec, neighbour: Neighbour) -> dict[str, Any]:
    return {
        "trial": neighbour.trial.number,
        "value": metric_value(spec, neighbour.trial),
        **({"values": metric_values(spec, neighbour.trial)} if spec.metrics else {}),
        "distance": neighbour.distance,
        "changes": {name: list(values) for name, values in neighbour.changes.items()},
    }
