"""What a study came to, for scripts and notebooks: its best trial, its trials as a table, its model, its report."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo_core.base import cards
from hpo_core.base.errors import InputError
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.study_run import why_ended
from hpo_core.ledger.tags import MODEL
from hpo_core.lineage.opening import find_study
from hpo_core.lineage.replay import Explanation, explain
from hpo_core.selection.final_choice import best_front
from hpo_core.space.configuration import displayed
from hpo_core.study.names import file_name
from hpo_core.study.preference import preference_of
from hpo_core.tracking.connection import check_there, connect
from hpo_core.tracking.credentials import redact
from hpo_core.tracking.models import load_model
from hpo_flows.base.progress import Outcome
from hpo_flows.loop.stages import Stages
from hpo_flows.reports.ending import model_runs
from hpo_flows.reports.export import columns, is_number, rows
from hpo_flows.reports.html.curves import CurveReader
from hpo_flows.reports.html.place import Place
from hpo_flows.reports.html.publish import write_report
from hpo_flows.reports.links import run_url
from hpo_flows.reports.text import (
    challenge_line,
    choice_limits_line,
    failed_line,
    limits_line,
    metric_values,
    number,
    one_line,
    outcome_text,
    ranked,
    spread_text,
)

if TYPE_CHECKING:
    import pandas

    from hpo_core.history.history import History

TOP = 5
"""How many trials a card shows."""


@dataclass(frozen=True, repr=False)
class StudyResult(Outcome):
    """A study after a run, or as :func:`load_study` found it.

    Attributes:
        experiment_id: The experiment of its run.
    """

    experiment_id: str = field(default="", compare=False)

    @property
    def pareto(self) -> list[StudyResult]:
        """The Pareto front: a result for each of its points, in order of the first metric, of which that is the best.

        With a final choice it is the front by the folds, with the means over these as values. With one metric it has at
        most the best trial.
        """
        if not self.spec.metrics:
            return [] if self.best is None else [self]
        return [replace(self, chosen=trial) for trial in best_front(self.history, self.choice)]

    def prefer(self, *preferences: str) -> StudyResult:
        """This result with another point of the Pareto front as the best one.

        Args:
            preferences: Conditions (``"latency_ms <= 10"``) on any metric, or weights (``"val_accuracy=2,
                latency_ms=1"``), as ``hpo best --prefer`` takes them.

        Raises:
            InputError: A preference cannot be understood, or no point keeps the conditions.
        """
        wanted = preference_of(preferences, self.spec.objectives)
        return replace(self, chosen=wanted.choose(best_front(self.history, self.choice), self.spec.objectives))

    def trials_dataframe(self) -> pandas.DataFrame:
        """All trials as a pandas table, one row each, by number.

        The columns are those of ``hpo export``: ``number``, ``state``, ``value``, ``fidelity``, ``params.NAME``,
        ``metrics.NAME``, ``start`` and ``end`` (UTC), ``seconds``, ``reason``, ``run_id`` and others.
        """
        import pandas

        table = rows(self.spec, self.history, self.choice)
        frame = pandas.DataFrame(table, columns=columns(self.spec, self.history))
        moments = {name: pandas.to_datetime(frame[name], utc=True) for name in ("start", "end")}
        numbers = [name for name in frame if is_number(name)]
        return frame.assign(**moments).astype(dict.fromkeys(numbers, "float64"))

    def best_model(self) -> Any:
        """The model that the best trial logged, loaded: a Keras model, a scikit-learn estimator, or MLflow's pyfunc.

        With a final choice it is the winner's, trained for the test. A scikit-learn model is a pickle: loading it runs
        code from whoever wrote it.

        Raises:
            ValueError: No trial is complete.
            InputError: No model was logged, or it cannot be fetched.
        """
        if self.best is None:
            raise ValueError(f"study {self.spec.name!r} has no complete trial")
        store = connect(self.tracking_uri)
        folder = Path(tempfile.mkdtemp(prefix="hpo-model-"))
        try:
            for run in model_runs(self.history, self.best, self.choice):
                if (found := store.fetch(run, MODEL, folder)) is not None and (found / "MLmodel").is_file():
                    model = load_model(found)
                    weakref.finalize(model, shutil.rmtree, folder, True)  # some models read their files late
                    return model
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"study {self.spec.name!r}",
            f"trial {self.best.number}, the best, has no artifact {MODEL!r} in MLflow",
            "call trial.log_model(model, example) in the objective, and train this configuration again",
        )

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the report, ``report.html``, to a folder (``report-NAME`` by default) and return its path.

        Reads the learning curves from MLflow.
        """
        store = connect(self.tracking_uri)
        curves = CurveReader(store, self.spec).read(self.history)
        ended = why_ended(store.get(self.run_id), self.history)
        place = Place(self.tracking_uri, self.experiment_id, self.run_id)
        where = Path(folder or f"report-{file_name(self.spec.name)}")
        return write_report(self.spec, self.history, where, place, curves, self.choice, self.challenge, ended)

    def explain(self, trial: int) -> Explanation:
        """Why a trial has its configuration. Reads the study in MLflow.

        Raises:
            InputError: The trial does not exist.
        """
        return explain(find_study(connect(self.tracking_uri), self.spec.name, self.spec.experiment), trial)

    def _best_line(self) -> str:
        if self.best is None:
            return "no trial is complete"
        winner = None if self.choice is None else self.choice.winner
        value = outcome_text(self.spec, self.best, self.history)
        if winner is not None and winner.trial.number == self.best.number:
            value = f"{spread_text(self.spec, winner)} over its folds"
        if self.spec.metrics and self.chosen is None:
            which = "in its middle" if self.spec.preference is None else "preferred"
            return f"front of {len(best_front(self.history, self.choice))}, {which} {value} (trial {self.best.number})"
        test = self.test_metrics.get(self.spec.metric)
        return f"{value} (trial {self.best.number})" + ("" if test is None else f", on the test set {number(test)}")

    def _verdicts(self) -> dict[str, str]:
        """Whether the best trial keeps the limits, and what came of the champion, as far as the study asks for them."""
        spec, verdicts = self.spec, dict[str, str]()
        if spec.limiting and self.best is not None:
            chosen = "" if self.choice is None or self.chosen is not None else choice_limits_line(spec, self.choice)
            verdicts["limits"] = chosen or limits_line(spec, self.best)
        if self.challenge is not None and spec.champion is not None:
            verdicts["champion"] = challenge_line(self.challenge, spec.champion.model)
        return verdicts

    def _counts(self) -> str:
        history = self.history
        return f"{len(history.complete)} complete, {failed_line(self.spec, history)}, {len(history.under_way)} running"

    def __repr__(self) -> str:
        return f"<StudyResult {self.spec.name!r}: {self._best_line()}; {self._counts()}>"

    def __str__(self) -> str:
        spec, best = self.spec, self.best
        config = {} if best is None else best.config
        lines = {
            "Study": f"{spec.name}: {spec.goal} by {spec.strategy.name}",
            "Best": self._best_line(),
            "With": ", ".join(f"{name}={displayed(value)}" for name, value in config.items()) or "-",
            **{name.capitalize(): line for name, line in self._verdicts().items()},
            "Trials": self._counts(),
            "Ended": self.reason or "-",
            "MLflow": f"run {self.run_id} in {redact(self.tracking_uri)}",
        }
        width = max(map(len, lines)) + 2
        return "\n".join(f"{name + ':':{width}}{one_line(text)}" for name, text in lines.items())

    def _repr_html_(self) -> str:
        """A card for notebooks; sends no request."""
        spec = self.spec
        best = {} if self.best is None else self.best.config
        names, metrics = list(spec.search_space.free), [each.metric for each in spec.objectives]
        shown = best_front(self.history, self.choice) if spec.metrics else ranked(self.history)[:TOP]
        table = [
            (trial.number, *metric_values(spec, trial).values(), *(trial.config.get(name, "-") for name in names))
            for trial in shown
        ]
        return cards.card(
            f"{spec.name}: {spec.goal}",
            cards.facts(
                {"best": self._best_line(), **self._verdicts(), "trials": self._counts(), "ended": self.reason or "-"}
            ),
            cards.facts(best) if best else "",
            cards.table(["trial", *metrics, *names], table) if table else "",
            cards.link(run_url(self.tracking_uri, self.experiment_id, self.run_id), "The study in MLflow"),
        )


def load_study(name: str, tracking_uri: str | None = None) -> StudyResult:
    """Load a study that ran anywhere, with its final choice and its comparison with the champion. Trains nothing.

    Args:
        name: The study's name.
        tracking_uri: An MLflow tracking URI; by default ``MLFLOW_TRACKING_URI``, or sqlite in the working folder.

    Raises:
        StudyUnknown: No study has this name.
        TrackingError: MLflow does not respond.
    """
    check_there(name, tracking_uri)
    ledger = find_study(connect(tracking_uri), name)
    history, stages = ledger.load(), Stages(ledger)
    stages.load(history)
    status = ledger.study_run.status.lower()
    return result_of(ledger, history, stages.search.reason or f"not yet; its run in MLflow is {status}", stages)


def result_of(ledger: Ledger, history: History, reason: str, stages: Stages) -> StudyResult:
    """The result of a study, from its trials and stages as last loaded."""
    run = ledger.study_run
    return StudyResult(
        ledger.spec,
        history,
        reason,
        ledger.store.uri,
        run.id,
        stages.choice,
        stages.challenge,
        experiment_id=run.experiment,
    )
