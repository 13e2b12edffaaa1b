"""Formats a study's state, trials and numbers as plain lines of text, for terminals, logs and notifications."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpo_core.history import spending
from hpo_core.history.front import best_first
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.tags import Tag
from hpo_core.selection.overtuning import overtuning_of
from hpo_core.selection.repeats import Leg, winner_of

if TYPE_CHECKING:  # the first line of `hpo tune` does not wait for the strategies
    from hpo_core.champion.challenge import Challenge
    from hpo_core.history.history import History
    from hpo_core.selection.final_choice import Choice, Standing
    from hpo_core.selection.overtuning import Scores
    from hpo_core.study.spec import StudySpec


def challenge_line(challenge: Challenge, model: str) -> str:
    """The verdict in one line, or the progress of the challenge."""
    if not challenge.done:
        return f"champion of {model}: {challenge.pending} evaluations are to be done"
    if challenge.record is None:
        return f"champion of {model}: refused: {challenge.obstacle}"
    tags = challenge.record.tags
    return f"champion of {model}: version {challenge.record.number} {tags[Tag.DECISION]}: {tags.get('hpo.reason', '')}"


def number(value: float | None) -> str:
    """A number for a table: six significant digits.

    >>> number(0.98333333), number(1e-7), number(None)
    ('0.983333', '1e-07', '-')
    """
    return "-" if value is None else f"{value:.6g}"


def duration(seconds: float) -> str:
    """
    >>> duration(0.34), duration(5), duration(125), duration(7325)
    ('0.3 s', '5 s', '2 min 05 s', '2 h 02 min')
    """
    if seconds < 9.95:
        return f"{round(seconds, 1):g} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def roughly(seconds: float) -> str:
    """
    >>> roughly(8.4), roughly(125), roughly(7325)
    ('8 s', '2 min', '2 h 02 min')
    """
    return re.sub(r" min \d\d s$", " min", duration(round(seconds)))


def one_line(text: object, length: int = 500) -> str:
    """Make a foreign text safe for one line of a terminal.

    >>> one_line("two\\n lines, \\x1b[31mred")
    'two lines, ?[31mred'
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= length else line[: length - 3] + "..."


def skipped_line(skipped: Mapping[str, str], most: int = 3) -> str:
    """How many runs are not trials, by reason.

    >>> skipped_line({"a": "it has no trial number", "b": "it has no trial number", "c": "'x' is missing"})
    "3 runs are not trials and are skipped: 2 x it has no trial number, 1 x 'x' is missing"
    """
    counts = Counter(skipped.values()).most_common()
    reasons = [f"{count} x {one_line(reason, 120)}" for reason, count in counts[:most]]
    if len(counts) > most:
        reasons.append(f"{sum(count for _, count in counts[most:])} for other reasons")
    runs = "1 run is not a trial and is" if len(skipped) == 1 else f"{len(skipped)} runs are not trials and are"
    return f"{runs} skipped: {', '.join(reasons)}"


def metric_value(spec: StudySpec, trial: Trial | None) -> float | None:
    """The study's metric of a trial, in the metric's own direction; None where no single metric says how good it is."""
    return None if trial is None or trial.loss is None or spec.metrics else spec.sign * trial.loss


def metric_values(spec: StudySpec, trial: Trial | None) -> dict[str, float]:
    """The study's metrics of a complete trial by name, each in its own direction; empty for any other."""
    if trial is None or trial.loss is None:
        return {}
    return {each.metric: each.sign * loss for each, loss in zip(spec.objectives, trial.outcome, strict=True)}


def ranked(history: History) -> list[Trial]:
    """One complete trial for each configuration, with the mean loss of its trainings, best first."""
    return best_first(history.merged.complete)


def outcome_text(spec: StudySpec, trial: Trial, history: History | None = None) -> str:
    """The study's metrics of a trial, such as ``val_accuracy 0.9137, latency_ms 12``; a dash without a value.

    With the history, one that is a mean has its standard error.
    """
    values = metric_values(spec, trial)
    if not spec.metrics and history is not None:
        return f"{spec.metric} {mean_text(spec, history, trial)}"
    return ", ".join(f"{each.metric} {number(values.get(each.metric))}" for each in spec.objectives)


def mean_text(spec: StudySpec, history: History, trial: Trial) -> str:
    """A trial's value, with its standard error if it is the mean of several trainings that differ."""
    value, error = metric_value(spec, trial), history.noise.error(trial)
    return number(value) if value is None or not trial.observed else with_error(value, error)


def certainty_lines(spec: StudySpec, history: History) -> list[str]:
    """Whether the best configuration keeps the limits; with repeats, how sure it is and how lucky the luckiest was."""
    best = history.incumbent
    kept = [limits_line(spec, best)] if best is not None and spec.limiting else []
    return [*kept, *repeats_lines(spec, history)]


def repeats_lines(spec: StudySpec, history: History) -> list[str]:
    """How sure the best configuration is and how lucky the luckiest trial was; nothing where none was trained again."""
    found = winner_of(history)
    if found is None or not found.trial.observed or not history.noise.deviation > 0:
        return []
    best, luckiest = found.trial, found.luckiest
    lines = [f"{spec.metric} {mean_text(spec, history, best)}, the mean of {best.observations} trainings"]
    if luckiest.number != best.number or found.luck > 0:
        line = f"luckiest: trial {luckiest.number} with {number(metric_value(spec, luckiest))}"
        luck = "trained once" if math.isnan(found.luck) else f"of which {found.luck:.2g} was luck"
        lines.append(f"{line}, {luck}")
    return lines


def outside_lines(spec: StudySpec, history: History) -> list[str]:
    """How many trials lie outside the space as it is now, and whether the best of them is better than the best inside.

    Returns:
        One line; none if no trial lies outside.
    """
    count = len(history.outside)
    if not count:
        return []
    counted = "1 trial lies" if count == 1 else f"{count} trials lie"
    line = f"{counted} outside the space, which was changed"
    ended = [trial for trial in history.outside if trial.state is TrialState.COMPLETE]
    best, inside = next(iter(best_first(ended)), None), history.incumbent
    if best is None or spec.metrics or (inside is not None and best_first([inside, best])[0] is inside):
        return [line]
    return [f"{line}; the best of them, trial {best.number} with {number(metric_value(spec, best))}, is better"]


def broken_limits(spec: StudySpec, trial: Trial) -> str:
    """The limits that a complete trial breaks, with its values; empty if it keeps them."""
    return ", ".join(
        f"{limit} ({number(limit.value(excess)) if math.isfinite(excess) else 'not logged'})"
        for limit in spec.limiting
        if (excess := trial.excess.get(limit.metric, 0.0)) > 0
    )


def limits_line(spec: StudySpec, best: Trial, of: str = "") -> str:
    """Whether the best trial, or the best of others than trials, keeps the limits, in words."""
    if broken := broken_limits(spec, best):
        others = of or f"trial{_as_far(spec, best)}"
        return f"no {others} keeps all limits; trial {best.number} comes closest, and breaks {broken}"
    return (
        f"keeps {', '.join(f'{limit} ({number(limit.value(best.excess[limit.metric]))})' for limit in spec.limiting)}"
    )


def none_feasible(spec: StudySpec, best: Trial) -> str:
    """A remark that no trial keeps the limits, as the best one breaks them."""
    return f"none{_as_far(spec, best)} keeps the limits"


def _as_far(spec: StudySpec, trial: Trial) -> str:
    """Which trials a trial is the best of: those trained as far; empty if all are."""
    return "" if spec.fidelity is None or trial.fidelity is None else f" with {trial.fidelity:g} {fidelity_name(spec)}"


def tuning_lines(spec: StudySpec, history: History, choice: Choice | None = None) -> list[str]:
    """What tuning was worth: the winner beside the first trial, by all that is known of both without luck."""
    found = None if spec.metrics else overtuning_of(history, choice, spec.metric, spec.sign)
    if found is None:
        return []
    winner, first = found.winner, found.first
    name, what = f"trial {first.trial.number}", _what_first(spec, history, first.trial)
    if winner.trial.number == first.trial.number:
        return [f"no trial was better than {name}, {what}"]
    if all(map(math.isnan, (winner.confirmed, winner.test, first.test))):
        return []  # what is left is in the table
    how = "confirmed" if choice is None else "folds"
    lines = [f"trial {winner.trial.number}, the best: {_scores(spec, winner, how)}"]
    lines.append(f"{name}, {what}: {_scores(spec, first, how)}{', breaks the limits' if found.limited else ''}")
    if found.in_vain is None or found.limited:
        return lines
    gain = f"tuning gained {with_error(found.gain, found.error)} without luck"
    return [*lines, f"{gain}: {name} would have done as well" if found.in_vain else gain]


def _what_first(spec: StudySpec, history: History, trial: Trial) -> str:
    """Of which trials one is the first: of all, of those that came to an end, or of those trained as far as it is."""
    before = [each for each in history.every if each.number < trial.number]
    if not before:
        return "the first"
    if trial.fidelity is not None and any(each.fidelity != trial.fidelity for each in before):
        return f"the first with {trial.fidelity:g} {fidelity_name(spec)}"
    return "the first complete one"


def _scores(spec: StudySpec, scores: Scores, how: str) -> str:
    """The values of one configuration."""
    parts = [f"search {number(spec.sign * scores.searched)}"]
    if not math.isnan(scores.confirmed):
        parts.append(f"{how} {with_error(spec.sign * scores.confirmed, scores.error)}")
    if not math.isnan(scores.test):
        parts.append(f"test {number(spec.sign * scores.test)}")
    return ", ".join(parts)


def confirm_line(spec: StudySpec, history: History) -> str:
    """What is being confirmed; empty while nothing is, also when a study that confirmed before goes on searching."""
    if not any(trial.confirms for trial in history.running):
        return ""
    confirming = Leg(history.without_retaken()).confirming
    return f"the search is over; its best configurations are trained again, {_bound(spec, history, len(confirming))}"


def _bound(spec: StudySpec, history: History, started: int) -> str:
    """How many trainings confirm at most."""
    total = spec.stop.trials
    if total is not None and spec.stop_reason(history, 0.0) is None:  # the strategy had nothing more to propose
        return f"up to trial {total - 1}"
    return f"{started + spec.confirmations_left(history)} times in all"


def seconds_left(spec: StudySpec, history: History, elapsed: float) -> float | None:
    """The estimated remaining seconds of a running study, from the trials so far; None if unknown."""
    if not history.running or not spec.ended(history):
        return None
    bounds: list[float] = []
    lost = {trial.number for trial in history.lost}  # their duration is unknown: the end is when the loss was noticed
    durations = [(t.end - t.start) / 1000 for t in history if t.end is not None and t.number not in lost]
    if spec.stop.trials is not None and durations:
        left = spec.stop.trials - spec.started(history) + len(history.running) / 2
        bounds.append(max(left, 0) * sum(durations) / len(durations) / spec.parallel)
    if spec.stop.full_trainings is not None and spec.scale is not None and (spent := spec.spent(history)):
        left = max(spec.stop.full_trainings - spent, 0)
        bounds.append(left * sum(durations) / spent / spec.parallel)
    if spec.stop.cost is not None and durations and (cost := spending.spent(history)):
        bounds.append(max(spec.stop.cost - cost, 0) * sum(durations) / cost / spec.parallel)
    if spec.stop.minutes is not None:
        bounds.append(max(60 * spec.stop.minutes - elapsed, 0))
    left = min(bounds, default=0.0)
    return left if left >= 1 else None


def failed_line(spec: StudySpec, history: History) -> str:
    """How many trials failed, and how many of those do not count because they are run again."""
    again = len(spec.retaken(history))
    return f"{len(history.failed)} failed" + (f" ({again} of them lost and run again)" if again else "")


def count_line(spec: StudySpec, history: History) -> str:
    """How many trials have ended, of how many.

    A study may have more than its file asks for, if that was changed.
    """
    done, total = spec.ended(history), spec.stop.trials
    if total is None:
        return f"{done} trial{'' if done == 1 else 's'} done"
    return f"{done} of {max(total, done)} trials done"


def spent_parts(spec: StudySpec, history: History) -> list[str]:
    """What is spent of a budget that is not counted in trials or minutes; empty if there is none."""
    parts: list[str] = []
    if spec.stop.full_trainings is not None and spec.scale is not None:
        parts.append(f"{spec.spent(history):.3g} of {spec.stop.full_trainings:g} full trainings")
    if spec.cost:
        of = "" if spec.stop.cost is None else f" of {spec.stop.cost:g}"
        parts.append(f"cost {spending.spent(history):.4g}{of} {spec.cost}")
    return parts


def status_parts(spec: StudySpec, history: History, elapsed: float) -> list[str]:
    """A study's progress in short texts: counts, the best value, the time left if it is known."""
    parts = [count_line(spec, history), f"{len(history.under_way)} running"]
    if history.failed:
        parts.append(failed_line(spec, history))
    if history.outside:
        parts.append(f"{len(history.outside)} outside the space")
    parts += spent_parts(spec, history)
    if (best := history.incumbent) is not None:
        parts.append(best_line(spec, history, best))
    if (left := seconds_left(spec, history, elapsed)) is not None:
        parts.append(f"about {roughly(left)} left")
    return parts


def status_line(spec: StudySpec, history: History, elapsed: float) -> str:
    """A study's progress in one line."""
    return "  |  ".join(status_parts(spec, history, elapsed))


def best_line(spec: StudySpec, history: History, best: Trial) -> str:
    """The best trial in a few words; with several metrics, the Pareto front."""
    if not best.feasible:
        return f"{none_feasible(spec, best)}, closest trial {best.number}"
    if spec.metrics:
        return f"front of {len(history.front)}, hypervolume {history.hypervolume:.4g}"
    return f"best {outcome_text(spec, best, history)} (trial {best.number})"


def seconds_of(trial: Trial) -> float | None:
    """How long a trial took; None if it runs."""
    return None if trial.end is None else (trial.end - trial.start) / 1000


def fidelity_name(spec: StudySpec) -> str:
    """What a trial's fidelity counts; if the study has none, the steps after which a trial was stopped."""
    return "steps" if spec.fidelity is None else spec.fidelity.name


def choice_line(spec: StudySpec, choice: Choice) -> str:
    """The progress of the final choice in one line."""
    if choice.winner is None and choice.decided:
        return "final choice: every configuration has failed a fold"
    if choice.winner is None:
        done, wanted = choice.folds
        return f"final choice: {done} of {wanted} folds are done"
    winner = f"final choice: trial {choice.winner.trial.number} with {spread_text(spec, choice.winner)}"
    return winner if choice.test is not None else f"{winner}; its test is running"


def spreads(spec: StudySpec, standing: Standing) -> dict[str, str]:
    """The mean over a finalist's folds and its standard error, by metric of the study."""
    views = {each: standing.by(i) for i, each in enumerate(spec.objectives)}
    return {each.metric: with_error(each.sign * view.mean, view.standard_error) for each, view in views.items()}


def spread_text(spec: StudySpec, standing: Standing) -> str:
    """As :func:`spreads`, in words."""
    return ", ".join(f"{metric} {value}" for metric, value in spreads(spec, standing).items())


def with_error(value: float, error: float) -> str:
    """A value with the digits that its error leaves; alone if that is 0 or unknown.

    >>> with_error(0.965544, 0.00281432), with_error(1234.5, 67.8), with_error(0.5, math.nan), with_error(1.0, 1e-20)
    ('0.9655 ± 0.0028', '1234 ± 68', '0.5', '1 ± 1e-20')
    """
    if not 0 < error < math.inf:
        return number(value)
    decimals = 1 - math.floor(math.log10(error))  # two significant ones of the error
    if decimals > 9 or abs(value) > 1e9:
        return f"{number(value)} ± {number(error)}"
    return f"{value:.{max(decimals, 0)}f} ± {error:.{max(decimals, 0)}f}"


def choice_limits_line(spec: StudySpec, choice: Choice) -> str:
    """Whether the winner keeps the limits on its folds, in words; empty without limits, or without a winner."""
    if choice.winner is None or not spec.limiting:
        return ""
    line = limits_line(spec, choice.winner.averaged, "finalist")
    return f"{line} over its folds"


def choice_rows(spec: StudySpec, choice: Choice) -> list[tuple[str, str, str, str]]:
    """One row per finalist, the winner first: trial, value in the search, mean over the folds, remark."""
    winner = choice.winner
    rows = []
    for standing in sorted(choice.standings, key=lambda s: (s is not winner, s.mean, s.trial.number)):
        on = bool(spec.metrics) and any(standing.trial.number == trial.number for trial in choice.front)
        remark = "winner" if standing is winner else "on the front" if on else standing.reason
        if standing.losses and not standing.reason and (broken := broken_limits(spec, standing.averaged)):
            remark = f"{remark}, breaks {broken}" if remark else f"breaks {broken}"
        mean = ", ".join(spreads(spec, standing).values()) if not standing.reason and standing.losses else "-"
        searched = ", ".join(number(value) for value in metric_values(spec, standing.trial).values())
        rows.append((str(standing.trial.number), searched, mean, remark))
    return rows


def test_lines(choice: Choice) -> list[str]:
    """The winner's score on the test set, one line per metric; or why there is none."""
    test = choice.test
    if test is None:
        return []
    if test.loss is None:
        return [f"the test failed: {test.reason}"]
    return [f"test {name}: {number(value)}" for name, value in sorted(test.metrics.items())]
