"""Instructs a running study: a configuration to try next, changed settings, the end of one trial, a pause.

All of it goes through MLflow, so it may be said on any machine, also while no flow works on the study. Every flow that
does takes it up within seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.ownership import ASKER
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING
from hpo_core.ledger.study_run import STOPPED, instructions_of
from hpo_core.ledger.tags import TAG_LENGTH, Tag
from hpo_core.space.configuration import Config, identity
from hpo_core.space.search_space import SearchSpace
from hpo_core.study.instructions import Instruction
from hpo_core.study.resume import check_changes
from hpo_flows.trials.session import stop_reason


def enqueue(ledger: Ledger, config: Mapping[str, Any]) -> Config:
    """Have a configuration tried next.

    Args:
        ledger: The study.
        config: Values by parameter. Those that are left out are the best trial's.

    Returns:
        The whole configuration.

    Raises:
        InputError: The configuration does not lie in the space, or it was tried or enqueued before.
    """
    if not isinstance(config, Mapping):
        raise InputError("CONFIG", f"{config!r} is not a mapping of parameters to values", "give {name: value}")
    history, space = ledger.load(), ledger.spec.search_space
    best = ledger.spec.stands_for(history.front)
    try:
        whole = space.validated(config if best is None else _with(space, best.config, config))
    except ValueError as error:
        if not str(error).endswith("is missing"):
            remedy = "correct it"
        elif best is None:
            remedy = "give a value for each, since there is no best trial yet"
        else:
            remedy = f"give a value for it, since the best trial so far, {best.number}, has none that fits"
        raise InputError("CONFIG", f"{dict(config)}: {error}", remedy) from None
    for trial in history.every:
        if trial.identity == identity(whole):
            raise InputError("CONFIG", f"trial {trial.number} has this configuration", "give another one")
    queue = instructions_of(ledger.study.check_there()).queue
    if any(identity(ledger.spec.placed(each)[0]) == identity(whole) for each in queue.values()):
        raise InputError("CONFIG", "it is enqueued already", "give another one")
    if len(Instruction("", "enqueue", whole).text) > TAG_LENGTH:
        raise InputError(
            "CONFIG", "it is longer than what MLflow keeps in a tag", "put it into first: of the study file"
        )
    ledger.study.instruct("enqueue", whole)
    return whole


def _with(space: SearchSpace, best: Config, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the values of the best trial where it has none, as far as they are active beside its own."""
    whole = dict(config)
    for name in space.parameters:  # each comes after those that it depends on
        if name not in whole and name in best and space.active(name, whole):
            whole[name] = best[name]
    return whole


def change(ledger: Ledger, changes: list[str]) -> list[str]:
    """Change settings of a study that runs.

    Args:
        ledger: The study.
        changes: ``key=value`` each: ``parallel=4``, ``trials=+20``, ``stop.minutes=60``.

    Returns:
        The changes, with the keys of a study file.

    Raises:
        InputError: One is not ``key=value``, may not change while the study runs, or cannot be used.
    """
    for each in changes:
        if not isinstance(each, str):
            raise InputError("KEY=VALUE", f"{each!r} is not text", "write it as 'parallel=4'")
    if not changes:
        raise InputError("KEY=VALUE", "no setting is given", "name one, such as parallel=4")
    spec, full = ledger.spec, [f"stop.{each}" if each.startswith("trials=") else each for each in changes]
    check_changes(spec, full)
    if spec.stop.trials is None:  # there is no total that a difference could be added to
        started = spec.started(ledger.load())
        full = [
            f"stop.trials={started + int(each.partition('=')[2])}" if each.startswith("stop.trials=+") else each
            for each in full
        ]
    ledger.study.instruct("set", full)
    return full


def stop_study(ledger: Ledger) -> int:
    """Let no further trial start; returns how many still run, which finish.

    If none does, the study ends here: whoever asks for trials may never come back. Its stages after the search are a
    flow's, which ends them itself.
    """
    history, spec = ledger.load(), ledger.spec
    ledger.study.request_stop()
    if not history.under_way and ledger.study_run.status == RUNNING and spec.final is None and spec.champion is None:
        ledger.study.set_status(FINISHED)
        ledger.study.end(history, STOPPED)
    return len(history.under_way)


def stop_trial(ledger: Ledger, number: int, reason: str = "") -> Trial:
    """End one running trial. It counts as failed, says why, and its configuration is not tried again.

    Raises:
        InputError: It does not run.
    """
    trial = trial_of_number(ledger.load(), number)
    if trial.state is not TrialState.RUNNING:
        raise InputError("--trial", f"trial {number} does not run: it is {trial.state.value}", "see hpo status")
    why = stop_reason(number, " ".join(reason.split())[:500])
    ledger.store.log(trial.run_id, [], {}, {Tag.STOP: why})  # whoever trains it on another machine looks there
    if trial.owner == ASKER:
        ledger.write(Report(trial.run_id, tags={Tag.REASON: why}, status=FAILED))
    else:
        ledger.study.instruct("stop", number, reason)
    return trial


def trial_of_number(history: History, number: int) -> Trial:
    """The trial of a number.

    Raises:
        InputError: There is none.
    """
    if (trial := next((trial for trial in history.every if trial.number == number), None)) is None:
        raise InputError("TRIAL", f"the study has no trial {number}", "see hpo status for how many it has")
    return trial
