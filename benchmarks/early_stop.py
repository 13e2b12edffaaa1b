"""What the rules of early stopping save, and what they cost, on the recorded learning curves of the suite.

A study is ``TRIALS`` random configurations, one after another, each trained to the end unless the rule stops it. Told
are, as means over instances and seeds with a 95 % interval: how often the rule stops the trial that would have become
the best of all (and that from the sixth trial on, since the first few have nothing to be compared with), the share of
training steps that it saves, and the regret of the best of those that were not stopped, where 0 is the best of all
trials and 1 the median; a rule that counts what it stops as trained to the end is judged by where those ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from benchmarks.instances import data_folder, module, scenario
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.early_stopping import RULES, StopRule, make_rule

TRIALS = 30
SEEDS = range(10, 20)
"""The constants of ``hpo_core/numerics/learning_curve.py`` were chosen on seeds 0 to 3."""

EPOCHS = 52


def curves(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Each instance's losses of random configurations, shape ``(TRIALS, steps)``; infinite where one diverged."""
    suite = json.loads((data_folder() / "suite.json").read_text())
    taskset = module("taskset", "taskset")
    for name in suite["taskset"]:
        task = taskset.TaskSet(name)
        rows = np.random.default_rng([seed, 1]).choice(len(task.valid), TRIALS, replace=False)
        yield f"taskset/{name}", np.array([task.curve(row) for row in rows])
    for name in suite["yahpo"]["lcbench"]:
        configs = scenario("lcbench").sample(np.random.default_rng([seed, 2]), TRIALS)
        epochs = [scenario("lcbench").evaluate(configs, name, epoch=epoch) for epoch in range(1, EPOCHS + 1)]
        yield f"lcbench/{name}", -np.array([[one["val_accuracy"] for one in row] for row in epochs]).T


def played(rule: StopRule, losses: np.ndarray) -> tuple[list[bool], list[float], int]:
    """Which trials of a study are stopped, the loss that each ends with, and how many steps all of them take."""
    trials: list[Trial] = []
    stopped, ends, spent, length = [], [], 0, losses.shape[1]
    for number, row in enumerate(losses):
        trial = Trial(number, {"x": number}, TrialState.RUNNING, fidelity=float(length))
        curve: dict[int, float] = {}
        rungs: dict[int, float] = {}
        judged, reached = 0, length
        for count, loss in enumerate(row, start=1):
            if np.isfinite(loss):
                curve[count] = float(loss)
            milestone = rule.milestones.last(count)
            if milestone <= judged or not curve:
                continue
            judged = milestone
            rungs[milestone] = curve[max(curve)]
            if count < length and rule.verdict(History(trials), trial, curve, milestone):
                reached = count
                break
        spent += reached
        stopped.append(reached < length)
        end = float(row[reached - 1])
        ends.append(end)
        state = TrialState.COMPLETE if np.isfinite(end) else TrialState.FAILED
        loss = float(end) if np.isfinite(end) else None
        trials.append(Trial(number, trial.config, state, loss, fidelity=float(reached), rungs=rungs))
    return stopped, ends, spent


def measure(rule: StopRule, family: str) -> str:
    missed, missed_late, saved, regrets = [], [], [], []
    for seed in SEEDS:
        for name, losses in curves_of(seed):
            if not name.startswith(family):
                continue
            stopped, ends, spent = played(rule, losses)
            final = losses[:, -1]
            best = int(np.argmin(final))
            missed.append(stopped[best])
            if best >= 5:
                missed_late.append(stopped[best])
            saved.append(1 - spent / losses.size)
            left = min((end for end, out in zip(ends, stopped, strict=True) if rule.final or not out), default=np.inf)
            median = float(np.median(final[np.isfinite(final)]))
            regrets.append(min((left - final[best]) / max(median - final[best], 1e-12), 1.0))
    return " | ".join(
        f"{np.mean(x):.3f} ±{1.96 * np.std(x) / len(x) ** 0.5:.3f}" for x in (missed, missed_late, saved, regrets)
    )


@cache
def curves_of(seed: int) -> tuple[tuple[str, np.ndarray], ...]:
    return tuple(curves(seed))


def main(rules: Sequence[str]) -> None:
    print("| rule | curves | best stopped | ... from the sixth on | steps saved | regret |\n|---|---|---|---|---|---|")
    for name in rules:
        for family in ("taskset", "lcbench"):
            rule = make_rule(name, {})
            print(f"| `{name}` | {family} | {measure(rule, family)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [*RULES])
