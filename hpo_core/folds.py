"""The evaluations outside the search in MLflow, shared by flows as trials are: first the run, then the claim.

An evaluation is a run nested below its trial's run, with the tag ``hpo.role`` = ``fold``, ``test``, ``seed`` or
``champion`` and the study's run in ``hpo.final``. It is one only if the param ``fold.<trial>...`` of the study's claims
(:mod:`hpo_core.ledger`) holds its id; a running run whose claim nobody has seen is settled by claiming on its behalf.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping

from hpo_core.configuration import config_from_json, config_to_json
from hpo_core.ledger import RESULT, SCHEMA, Ledger, finite, join_tag, lost_because, split_tag
from hpo_core.runs import whole
from hpo_core.selection import Evaluation
from hpo_core.store import FINISHED, RUNNING, Run
from hpo_core.trial import Fold, Part, Reigning, Repeat, Trial, TrialState, phase_of

log = logging.getLogger("hpo")


class FoldLedger:
    """The evaluations of one study, as one flow sees them. Not safe for several threads.

    Args:
        ledger: The study.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._running: set[str] = set()  # runs that this flow trains now
        self._holders: set[str] = set()  # runs known to hold their claim
        self._losers: set[str] = set()  # and not to hold it

    def load(self) -> list[Evaluation]:
        """All evaluations as they stand now; those whose flow is dead are ended as lost. One search."""
        ledger, found = self._ledger, []
        for run, evaluation in self._search():
            if not self._holds(run, evaluation):
                continue
            known: Evaluation | None = evaluation
            if why := self._dead(run):
                if ledger.end_lost(run, why, self._params_of(run)):
                    log.warning("%s of trial %d is lost: %s", part_name(evaluation), evaluation.number, why)
                known = evaluation_of(ledger.store.get(run.id), ledger)
            if known is not None:
                found.append(known)
        return found

    def stale(self) -> list[tuple[Run, Evaluation, str]]:
        """What runs for MLflow only, and why its flow is thought dead: all that :meth:`load` ends or deletes."""
        return [(run, evaluation, why) for run, evaluation in self._search() if (why := self._dead(run))]

    def _search(self) -> Iterator[tuple[Run, Evaluation]]:
        ledger = self._ledger
        for run in ledger.store.search([ledger.study_run.experiment], {"hpo.final": ledger.study_run.id}):
            if (evaluation := evaluation_of(run, ledger)) is not None:
                yield run, evaluation

    def _dead(self, run: Run) -> str:
        """Why the flow of a running run is thought dead; empty if it is not, or the run has ended."""
        return "" if run.status != RUNNING or run.id in self._running else lost_because(run)

    def _holds(self, run: Run, evaluation: Evaluation) -> bool:
        """Whether the run is the evaluation that it says it is. Only the holder of a claim trains, or ends a run."""
        if run.id in self._holders or run.status != RUNNING or run.params:
            return True
        if run.id not in self._losers:
            won = self._ledger.store.claim(self._ledger.claims_run, _claim(evaluation), run.id)
            (self._holders if won else self._losers).add(run.id)
            return won
        if lost_because(run):  # its flow died before it could delete it
            self._ledger.store.delete_run(run.id)
        return False

    def _params_of(self, run: Run) -> dict[str, str]:
        """The params that a run should show; none where its configuration is unreadable."""
        try:
            config = config_from_json(join_tag("hpo.config", run.tags))
        except ValueError:
            return {}
        return self._ledger.spec.search_space.to_params(config)

    def reserve(self, wanted: Evaluation, trial: Trial) -> Evaluation | None:
        """Make an evaluation this flow's: its run exists in MLflow before anything is trained.

        Args:
            wanted: What :meth:`hpo_core.selection.Selection.wanted` answered.
            trial: The trial whose configuration it is.

        Returns:
            The evaluation with its run, or None if another flow was faster.
        """
        ledger, spec, part = self._ledger, self._ledger.spec, wanted.part
        tags = {
            "mlflow.parentRunId": trial.run_id,
            "mlflow.source.name": spec.objective,
            "hpo.role": phase_of(part),
            "hpo.schema": SCHEMA,
            "hpo.study": spec.name,
            "hpo.final": ledger.study_run.id,
            "hpo.trial": str(trial.number),
            "hpo.attempt": str(wanted.attempt),
            "hpo.seed": str(spec.seed),
            "hpo.owner": ledger.owner,
            "hpo.lease": ledger.lease(),
            **_part_tags(part),
            **split_tag("hpo.config", config_to_json(trial.config)),
        }
        if wanted.fidelity is not None:
            tags["hpo.fidelity"] = repr(wanted.fidelity)
        name = f"{spec.name}-{trial.number:04d}-{_part_name(part)}"
        run = ledger.store.create_run(ledger.study_run.experiment, name, tags)
        if not ledger.store.claim(ledger.claims_run, _claim(wanted), run.id):
            ledger.store.delete_run(run.id)
            return None
        self._holders.add(run.id)
        self._running.add(run.id)
        return evaluation_of(run, ledger)

    def release(self, run_id: str) -> None:
        """This flow no longer trains the evaluation; what became of it is read at the next load."""
        self._running.discard(run_id)


def part_name(evaluation: Evaluation) -> str:
    """What an evaluation is scored on, for people."""
    return "test" if evaluation.part is None else str(evaluation.part)


def _part_tags(part: Part | None) -> dict[str, str]:
    match part:
        case Fold(index, of):
            return {"hpo.fold": str(index), "hpo.folds": str(of)}
        case Repeat(index):
            return {"hpo.repeat": str(index)}
        case Reigning(version):
            return {"hpo.version": str(version)}
    return {}


def _part_of(tags: Mapping[str, str]) -> Part | None:
    """The inverse of :func:`_part_tags`.

    Raises:
        ValueError: The tags name no part.
    """

    def counted(key: str) -> int:
        if (found := whole(tags.get(key, ""), 9)) is None:
            raise ValueError(f"its tag {key} is {tags.get(key)!r}")
        return found

    match tags.get("hpo.role"):
        case "test":
            return None
        case "fold":
            return Fold(counted("hpo.fold"), counted("hpo.folds"))
        case "seed":
            return Repeat(counted("hpo.repeat"))
        case "champion":
            return Reigning(counted("hpo.version"))
    raise ValueError("it is no evaluation")


def _part_name(part: Part | None) -> str:
    """A part in the name of its run."""
    match part:
        case Fold(index, _):
            return f"fold-{index + 1}"
        case Repeat(index):
            return f"seed-{index + 1}"
        case Reigning(version):
            return f"champion-{version}"
    return "test"


def _claim(evaluation: Evaluation) -> str:
    """The param that stands for an attempt at an evaluation."""
    part = evaluation.part
    name = f"{part.index}of{part.of}" if isinstance(part, Fold) else _part_name(part)
    fidelity = "" if evaluation.fidelity is None else f".{evaluation.fidelity!r}"
    return f"fold.{evaluation.number}.{name}.{evaluation.attempt}{fidelity}"


def evaluation_of(run: Run, ledger: Ledger) -> Evaluation | None:
    """A run as an evaluation of the study; None if its tags do not make one."""
    tags, spec = run.tags, ledger.spec
    number, attempt = whole(tags.get("hpo.trial", ""), 6), whole(tags.get("hpo.attempt", ""), 6)
    try:
        part = _part_of(tags)
    except ValueError:
        return None
    fidelity = tags.get("hpo.fidelity")
    readable = fidelity is None or re.fullmatch(r"\d+(\.\d+)?(e[-+]?\d+)?", fidelity)
    if number is None or attempt is None or not readable:
        return None
    value, reason, lost = run.metrics.get(spec.metric), tags.get("hpo.reason", ""), tags.get("hpo.lost", "")
    loss: float | None = None
    if run.status == RUNNING:
        state = TrialState.RUNNING
    elif (run.status == FINISHED or (RESULT in tags and lost)) and finite(value):
        state, loss, reason, lost = TrialState.COMPLETE, spec.loss(value), "", ""
    else:
        state, reason = TrialState.FAILED, reason or f"{run.status.lower()} without a finite {spec.metric}"
    return Evaluation(
        number=number,
        part=part,
        fidelity=None if fidelity is None else float(fidelity),
        attempt=attempt,
        state=state,
        loss=loss,
        lost=lost,
        reason=reason,
        run_id=run.id,
        metrics=run.metrics,
        start=run.start,
        end=run.end,
    )
