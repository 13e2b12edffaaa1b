"""Shows the best of a study: its winner or incumbent, or its Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.ledger import Ledger
from hpo_core.selection.final_choice import Choice, best_front, best_trial
from hpo_core.selection.overtuning import overtuning_of
from hpo_core.selection.repeats import winner_of
from hpo_core.study.preference import preference_of
from hpo_core.study.spec import StudySpec
from hpo_flows.cli.common import print_json, ui_hint
from hpo_flows.loop.final import choice_of
from hpo_flows.reports.ending import as_yaml, kept_model, model_lines, serve_line
from hpo_flows.reports.front import front_data, prefer_hint, standing_line, winner_facts
from hpo_flows.reports.terminal import best_table, front_table, front_title, print_choice, print_point
from hpo_flows.reports.text import certainty_lines, metric_value, metric_values, outside_lines, tuning_lines


@dataclass(frozen=True)
class Best:
    """The best of a study.

    Args:
        ledger: The study.
        history: Its trials.
        choice: Its final choice, if it has one.
        trial: The best trial; of a front, the point to show.
        wish: What the user prefers; empty if nothing was said.
    """

    ledger: Ledger
    history: History
    choice: Choice | None
    trial: Trial
    wish: str = ""

    @property
    def spec(self) -> StudySpec:
        return self.ledger.spec

    @property
    def front(self) -> Sequence[Trial]:
        return best_front(self.history, self.choice)

    @property
    def point(self) -> Trial:
        """The trial as it is on the front, where its losses may be those of the final choice's folds."""
        return next((trial for trial in self.front if trial.number == self.trial.number), self.trial)

    @property
    def test(self) -> dict[str, float] | None:
        """The metrics of the winner on the test data, for JSON."""
        return None if self.choice is None or self.choice.test is None else dict(self.choice.test.metrics)


def show(ledger: Ledger, prefer: Sequence[str], *, as_json: bool, yaml: bool) -> None:
    """Print the best trials of a study, or their configuration alone. Exit code 1 if no trial is complete."""
    spec, history = ledger.spec, ledger.load()
    if history.incumbent is None:
        typer.echo(f"study {spec.name!r} has no complete trial yet", err=True)
        raise typer.Exit(1)
    choice = choice_of(ledger, history)
    trial = best_trial(history, choice, spec.stands_for)
    assert trial is not None
    best = Best(ledger, history, choice, trial)
    if prefer:
        wanted = preference_of(prefer, spec.objectives)
        best = Best(ledger, history, choice, wanted.choose(best.front, spec.objectives), f"preferred by {wanted}")
    if yaml:
        typer.echo("first:\n  - " + "\n    ".join(as_yaml(best.trial.config) or ["{}"]))
    elif as_json:
        print_json(**(_front_data(best) if spec.metrics else _data(best, history.incumbent)))
    elif spec.metrics:
        _show_front(best)
    else:
        _show_trials(best, history.incumbent)


def _show_trials(best: Best, incumbent: Trial) -> None:
    """The best trials by the only metric, and the winner, or the incumbent as long as there is none."""
    spec, history, choice, console = best.spec, best.history, best.choice, Console()
    console.print(best_table(spec, history, f"Best trials of {spec.name} by {spec.metric}"))
    if choice is not None and choice.standings:
        print_choice(spec, history, choice, console)
    if choice is None or choice.winner is None:
        remarks = [*certainty_lines(spec, history), *tuning_lines(spec, history, choice)]
        remarks += outside_lines(spec, history)
        for line in [*as_yaml(incumbent.config), *(f"# {each}" for each in remarks)]:
            typer.echo(line)
    _show_places(best, best.trial)


def _show_front(best: Best) -> None:
    """The Pareto front, and the point of it that was chosen, or the one that stands for it."""
    spec, history, choice, console = best.spec, best.history, best.choice, Console()
    front, point = best.front, best.point
    console.print(front_table(spec, front, front_title(spec, history, front)))
    if choice is not None and choice.standings and not best.wish:
        print_choice(spec, history, choice, console)
    if choice is None or choice.winner is None or best.wish:
        print_point(spec, history, point, best.wish or standing_line(spec, front), console)
    if not best.wish and len(front) > 1:
        typer.echo(f"Another point: {prefer_hint(spec, front)}")
    _show_places(best, point)


def _show_places(best: Best, trial: Trial) -> None:
    """Where the model of the best trial and the study are."""
    if (model := kept_model(best.ledger, best.history, trial, best.choice)) is not None:
        for line in [f"Model: {model.uri}, loaded by", *model_lines(model), "and served by", serve_line(model)]:
            typer.echo(line)
    typer.echo(f"MLflow: {ui_hint(best.ledger)}")


def _data(best: Best, incumbent: Trial) -> dict[str, Any]:
    spec, history, trial = best.spec, best.history, best.trial
    winner = None if best.choice is None else best.choice.winner
    judged, chosen = trial if winner is None else winner.averaged, winner_facts(spec, best.choice)
    return {
        "study": spec.name,
        "trial": trial.number,
        "value": metric_value(spec, judged),
        "metric": spec.metric,
        "config": dict(trial.config),
        "metrics": dict(judged.metrics),
        "feasible": judged.feasible,
        "searched": metric_value(spec, trial),
        **_certainty(history),
        **({} if winner is None else {"trainings": len(winner.folds), "error": chosen["final"]["error"]}),
        "tuning": _tuning(spec, history, best.choice),
        "run_id": trial.run_id,
        "incumbent": incumbent.number,
        **chosen,
        "test": best.test,
    }


def _front_data(best: Best) -> dict[str, Any]:
    spec, point = best.spec, best.point
    return {
        "study": spec.name,
        "trial": point.number,
        "values": metric_values(spec, point),
        "metrics": dict(spec.metrics),
        "config": dict(point.config),
        "feasible": point.feasible,
        "run_id": point.run_id,
        "front": front_data(spec, best.front),
        "hypervolume": best.history.hypervolume,
        **winner_facts(spec, best.choice),
        "test": best.test,
    }


def _certainty(history: History) -> dict[str, Any]:
    """How sure the incumbent is, and how lucky the luckiest trial was, for JSON."""
    found = winner_of(history)
    if found is None:
        return {}
    error, luck = (None if math.isnan(value) else value for value in (found.error, found.luck))
    return {
        "trainings": found.trial.observations,
        "error": error,
        "luckiest": {"trial": found.luckiest.number, "luck": luck},
    }


def _tuning(spec: StudySpec, history: History, choice: Choice | None) -> dict[str, Any] | None:
    """The winner and the first trial, for JSON; null is for what is not known."""
    found = overtuning_of(history, choice, spec.metric, spec.sign)
    if found is None:
        return None
    data: dict[str, Any] = {}
    for name, scores in (("winner", found.winner), ("first", found.first)):
        values = {"search": scores.searched, "confirmed": scores.confirmed, "test": scores.test}
        shown = {key: None if math.isnan(value) else spec.sign * value for key, value in values.items()}
        data[name] = {
            "trial": scores.trial.number,
            **shown,
            "error": None if math.isnan(scores.error) else scores.error,
        }
    gain, error = (None if math.isnan(value) else value for value in (found.gain, found.error))
    return {**data, "gain": gain, "error": error, "first_as_good": found.in_vain}
