"""Trials for programs in any language: ``hpo ask`` and ``hpo tell`` reserve and end a trial, a process each.

Between the two there is no process that could renew the trial's lease. So whoever asks says for how long, and after
that the trial counts as lost. A result that comes later still counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Report
from hpo_core.ledger.ownership import ASKER
from hpo_core.ledger.store import FAILED, FINISHED
from hpo_core.selection.evaluation import Training
from hpo_core.study.editions import params_of
from hpo_core.study.spec import StudySpec
from hpo_flows.api.asked import told_metrics
from hpo_flows.api.asking import AskedStudy
from hpo_flows.api.instructing import trial_of_number
from hpo_flows.base.paths import home
from hpo_flows.objectives.messages import Use
from hpo_flows.objectives.result import NotFinite
from hpo_flows.trials.prepare import seed_of
from hpo_flows.trials.recorder import TrialLog, as_reason

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

NOT_FINITE = re.compile(r"[-+]?(nan|inf(inity)?)", re.IGNORECASE)
"""Numbers as most languages print them, and JSON does not."""


def seconds_of(text: str) -> float:
    """A duration such as ``30m`` in seconds.

    Raises:
        InputError: It is none.

    >>> seconds_of("1.5h")
    5400.0
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smhd])", text)
    if found is None or not float(found[1]):
        raise InputError("--for", f"{text!r} is not a duration", "write it as 90s, 30m, 8h or 2d")
    return float(found[1]) * UNITS[found[2]]


def ask_for(study: AskedStudy, seconds: float) -> dict[str, Any]:
    """Reserve the next trial of a study for a while.

    Returns:
        The trial as plain data; without a number if there is none, and ``over`` says whether that is for good.
    """
    training = study.reserve(owner=ASKER, lease_seconds=seconds)
    if training is None:
        waits = "paused: hpo resume goes on" if study.ledger.study.instructions.paused else "wait: others are running"
        return {"number": None, "over": study.over, "reason": study.reason or waits}
    trial, spec, ledger = training.trial, study.spec, study.ledger
    ledger.write(Report(trial.run_id, params=params_of(spec, training)))
    return {
        "number": trial.number,
        "config": dict(trial.config),
        "seed": seed_of(study.session, training),
        "fidelity": trial.fidelity,
        "parent": trial.parent,
        "id": trial.run_id,
        "over": False,
    }


def tell_for(study: AskedStudy, number: int, result: str, error: str, id: str = "") -> str:
    """End a trial that was asked for; returns what it came to, in words.

    Args:
        study: The study.
        number: The trial's number.
        result: The metric as a number, or metrics as a JSON object; empty if there is an error.
        error: Why the trial has no result; empty if there is one.
        id: The trial's id, to be sure that it is the same one; empty if that is not known.

    Raises:
        InputError: The trial does not exist, it is not out, or the result cannot be used.
    """
    spec = study.spec
    trial = trial_of_number(study.session.load(), number)
    if id and id != trial.run_id:
        raise InputError("--id", f"{id!r} is not the id of trial {number}", "give the id that hpo ask printed")
    record = TrialLog(study.session, Training(trial), {}, home() / "trials" / trial.run_id)
    metrics = None
    if not error:
        try:
            metrics = told_metrics(spec, record, number, _read(result))
        except NotFinite as astray:
            error = str(astray)
    said = _said(spec, trial)
    if said and (trial.metrics.items() >= metrics.items() if metrics is not None else trial.reason == as_reason(error)):
        return said if metrics is not None else f"failed: {error}"  # once more, by a program that is not sure of it
    if said:
        raise InputError("TRIAL", f"trial {number} has ended: {said}", "tell each trial once")
    if trial.owner != ASKER:
        problem = f"trial {number} was not asked for by hpo ask: {trial.owner} trains it"
        raise InputError("TRIAL", problem, "end it with hpo stop --trial, if need be")
    record.receive(Use(("fidelity", "phase")))
    if metrics is None:
        record.finish(FAILED, None, error)
        study.end_if_stopped(ASKER)
        return f"failed: {error}"
    record.finish(FINISHED, metrics)
    study.end_if_stopped(ASKER)
    return _in_words(spec, metrics)


def _in_words(spec: StudySpec, metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{each.metric} {metrics[each.metric]:g}" for each in spec.objectives)


def _said(spec: StudySpec, trial: Trial) -> str:
    """How a trial has ended, in words; empty if a result may still be told."""
    if trial.state is TrialState.COMPLETE:
        return _in_words(spec, trial.metrics)
    return trial.reason if trial.state is TrialState.FAILED and not trial.lost else ""


def _read(text: str) -> float | Mapping[str, Any]:
    """A number, or a JSON object of metrics.

    Raises:
        InputError: It is neither, or one metric stands in it twice.

    >>> _read("-0.5"), _read("-inf"), _read('{"loss": 1}')
    (-0.5, -inf, {'loss': 1})
    """
    if NOT_FINITE.fullmatch(text.strip()):
        return float(text)
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except InputError:
        raise
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, bool) or not isinstance(found, int | float | dict):
        raise InputError("RESULT", f"{text!r:.80} is neither a number nor a JSON object of metrics", "tell 0.93, say")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of a JSON object, of which json.loads would silently keep the last of each name."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise InputError("RESULT", f"{name!r} is given twice", "keep one")
    return dict(pairs)
