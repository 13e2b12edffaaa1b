"""The plots of a study's report, as plain data that plotly's script in the page draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hpo_core.champion.challenge import Challenge
from hpo_core.history.history import History
from hpo_core.selection.final_choice import Choice
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.html.curves import Curves
from hpo_flows.reports.html.figures.durations import durations, other_metrics, timeline
from hpo_flows.reports.html.figures.fronts import hypervolume, pareto_front
from hpo_flows.reports.html.figures.importance import importance
from hpo_flows.reports.html.figures.learning import learning_curves
from hpo_flows.reports.html.figures.parameters import interplay, parallel_coordinates, slices
from hpo_flows.reports.html.figures.past import Past, Plot
from hpo_flows.reports.html.figures.progress import (
    best_by_cost,
    distribution,
    fidelity_spent,
    optimisation_history,
    predictions,
)

WHOLE: tuple[Callable[[Past], list[Plot]], ...] = (
    optimisation_history,
    best_by_cost,
    pareto_front,
    hypervolume,
    parallel_coordinates,
    timeline,
    fidelity_spent,
)

BY_METRIC: tuple[Callable[[Past], list[Plot]], ...] = (
    learning_curves,
    slices,
    interplay,
    durations,
    other_metrics,
    predictions,
    distribution,
)


def past_of(
    spec: StudySpec,
    history: History,
    curves: Curves | None = None,
    choice: Choice | None = None,
    challenge: Challenge | None = None,
    ended: str = "",
) -> Past:
    """A study as the report sees it."""
    found = None if spec.metrics else importance(spec.search_space, history.merged)
    return Past(spec, history, found, curves, choice, challenge, ended)


def plots(past: Past) -> dict[str, list[Plot]]:
    """The plots of the study as a whole, by the name of the function that draws them."""
    return {draw.__name__: draw(past) for draw in WHOLE}


def plots_by_metric(past: Past) -> list[tuple[Past, dict[str, list[Plot]]]]:
    """The plots of one metric at a time, for each of the study's."""
    found = []
    for i, view in enumerate(past.views):
        drawn = {draw.__name__: draw(view) for draw in BY_METRIC}
        if i:  # ids are unique in a page
            drawn = {name: [replace(plot, name=f"{plot.name}-by-{i}") for plot in each] for name, each in drawn.items()}
        found.append((view, drawn))
    return found
