"""The plots of a study's report, as plain data that plotly's script in the page draws."""

from __future__ import annotations

from collections.abc import Callable

from hpo_core.champion.challenge import Challenge
from hpo_core.history.history import History
from hpo_core.selection.final_choice import Choice
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.html.curves import Curves
from hpo_flows.reports.html.figures.durations import durations, other_metrics, timeline
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

DRAWN: tuple[Callable[[Past], list[Plot]], ...] = (
    optimisation_history,
    best_by_cost,
    learning_curves,
    parallel_coordinates,
    slices,
    interplay,
    timeline,
    durations,
    fidelity_spent,
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
) -> Past:
    """A study as the report sees it."""
    return Past(spec, history, importance(spec.search_space, history.merged), curves, choice, challenge)


def plots(past: Past) -> dict[str, list[Plot]]:
    """All plots that the study's history gives, by the name of the function that draws them."""
    return {draw.__name__: draw(past) for draw in DRAWN}
