"""How far the fidelity that is spent brings strategies and peers: regret by full trainings' worth, workers simulated.

    python -m benchmarks.multi_fidelity run hyperband asha peer:optuna_hyperband --workers 4 --seeds 10
    python -m benchmarks.multi_fidelity table
    python -m benchmarks.multi_fidelity plot --png multi-fidelity.png

Trainings take the time that was recorded for them, on as many simulated workers as are asked for; each asks for its
next training when the one before has ended or was stopped. Regret is of the lowest loss that any training has shown at
any fidelity. What goes on from a checkpoint costs the difference; a peer that trains from scratch pays for all of it.
Settings follow a strategy's name (``hyperband:sampler=tpe``), and so does a rule that stops its trainings
(``bayesian+asha_stop``).
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import stats

from benchmarks import standings, trainings
from benchmarks.contenders import Contenders, PeerEnded, Process, make
from benchmarks.measure import table as markdown
from benchmarks.prior import BELIEFS, believed
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.early_stopping import make_rule
from hpo_core.space.search_space import SearchSpace

CHECKPOINTS = (5, 10, 20, 50)
OUT = Path("multi_fidelity.jsonl")


class Job(NamedTuple):
    """A training that a contender asks for.

    Attributes:
        id: Of the contender's own making.
        config: The configuration.
        start: The fidelity that it goes on from; 0 from scratch.
        end: The fidelity that it goes to.
        reports: The fidelities at which the contender wants to hear of it and may stop it.
    """

    id: int
    config: Mapping[str, Any]
    start: float
    end: float
    reports: Sequence[float] = ()


class Contender(Protocol):
    def job(self) -> Job | None:
        """The next training; None to wait until another has ended."""

    def report(self, id: int, fidelity: float, loss: float) -> bool:
        """Whether a training goes on after what it shows."""

    def end(self, id: int, fidelity: float, loss: float) -> None:
        """That a training is over."""


class Ours:
    """A strategy of the registry, its proposals standing in a history as they would in MLflow."""

    def __init__(self, name: str, task: trainings.Task, seed: int) -> None:
        label, _, rule = name.partition("+")
        self.strategy, self.rule = make(label, task.fidelity), make_rule(rule, {}) if rule else None
        self.task, self.seed, self.trials = task, seed, list[Trial]()
        self.curves: dict[int, dict[int, float]] = {}

    def job(self) -> Job | None:
        proposals = self.strategy.propose(self.task.space, History(self.trials), 1, seed=self.seed)
        if not proposals:
            return None
        proposal, number = proposals[0], len(self.trials)
        end = proposal.fidelity or self.task.fidelity.max
        self.trials.append(Trial(number, proposal.config, TrialState.RUNNING, fidelity=end, parent=proposal.parent))
        self.curves[number] = {}
        start = 0.0 if proposal.parent is None else self.trials[proposal.parent].fidelity
        # A share of the training set is not a step after which a training could be stopped.
        steps = self.task.between(start or 0.0, end) if self.rule is not None and self.task.continues else []
        return Job(number, proposal.config, start or 0.0, end, steps)

    def report(self, id: int, fidelity: float, loss: float) -> bool:
        assert self.rule is not None
        count, trial, curve = round(fidelity), self.trials[id], self.curves[id]
        milestone = self.rule.milestones.last(count)
        if np.isfinite(loss):
            curve[count] = loss
        if not curve or milestone <= max(trial.rungs, default=0):
            return True
        self.trials[id] = trial = replace(trial, rungs={**trial.rungs, milestone: curve[max(curve)]})
        return not self.rule.verdict(History(self.trials), trial, curve, milestone)

    def end(self, id: int, fidelity: float, loss: float) -> None:
        trial = self.trials[id]
        stopped = fidelity < (trial.fidelity or 0.0) - 1e-9
        state, known = (TrialState.COMPLETE, loss) if np.isfinite(loss) else (TrialState.FAILED, None)
        self.trials[id] = replace(
            trial, state=state, loss=known, fidelity=fidelity, stopped_early=stopped, requested_fidelity=trial.fidelity
        )


class Theirs:
    """A multi-fidelity study of a peer in its process."""

    def __init__(self, process: Process, name: str, space: SearchSpace, fidelity: Fidelity, seed: int) -> None:
        self.process = process
        scale = {"min": fidelity.min, "max": fidelity.max, "eta": fidelity.eta, "levels": fidelity.levels}
        described = {"peer": name, "space": json.loads(space.to_json()), "seed": seed, "fidelity": scale}
        process.send({"study": described})

    def job(self) -> Job | None:
        answer = self.process.send({"job": None})
        return None if answer is None else Job(**answer)

    def report(self, id: int, fidelity: float, loss: float) -> bool:
        return bool(self.process.send({"report": [id, fidelity, _sayable(loss)]}))

    def end(self, id: int, fidelity: float, loss: float) -> None:
        self.process.send({"end": [id, fidelity, _sayable(loss)]})


def _sayable(loss: float) -> float:
    """A loss that every peer takes: a training that diverged is as bad as can be."""
    return loss if np.isfinite(loss) else 1e6


def simulate(contender: Contender, task: trainings.Task, workers: int, full_trainings: float) -> list[list[float]]:
    """One study: ``[fidelity spent in full trainings, regret]`` each time that the regret falls, and at the end."""
    order = itertools.count()
    events: list[tuple[float, int, Job, float, float]] = []  # when, its place, the job, from which fidelity, to which
    idle, now, spent, best = workers, 0.0, 0.0, np.inf
    curve: list[list[float]] = []

    def submit(job: Job, start: float, now: float) -> None:
        end = min((each for each in job.reports if each > start + 1e-9), default=job.end)
        steps = [start, end] if start and task.continues else [end]
        seconds = task.seconds(job.config, steps)
        took = float(seconds[-1] - seconds[0]) if len(steps) == 2 else float(seconds[-1])
        heapq.heappush(events, (now + took, next(order), job, start, end))

    while spent < full_trainings:
        while idle and (job := contender.job()) is not None:
            submit(job._replace(config=task.space.validated(job.config)), job.start, now)
            idle -= 1
        if not events:
            break
        now, _, job, start, end = heapq.heappop(events)
        shown = task.losses(job.config, task.between(start, end))
        spent += (end - start if task.continues else end) / task.fidelity.max
        loss = float(shown[-1])
        if float(shown.min()) < best:
            best = float(shown.min())
            curve.append([round(spent, 4), round(task.regret(best), 6)])
        if end < job.end - 1e-9 and contender.report(job.id, end, loss):
            submit(job, end, now)
        else:
            contender.end(job.id, end, loss)
            idle += 1
    return [*curve, [round(spent, 4), round(task.regret(best), 6)]]


def run(args: argparse.Namespace) -> None:
    done = {(line["strategy"], line["instance"], line["seed"], line["workers"]) for line in standings.read([args.out])}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with Contenders(args.python) as contenders:
        for seed, name, label in itertools.product(seeds, args.tasks or trainings.names(), args.names):
            shown = label if args.belief == "none" else f"{label}, {args.belief}"
            if (shown, name, seed, args.workers) in done:
                continue
            # Loaded anew: which recorded training a configuration is, is settled as it comes.
            trainings.load.cache_clear()
            task = trainings.load(name)
            space = believed(task.space, partial(_trained, task), args.belief, seed)
            task, begin = replace(task, space=space), time.perf_counter()
            try:
                if label.startswith("peer:"):
                    peer = label.removeprefix("peer:")
                    contender: Contender = Theirs(contenders.process(peer), peer, task.space, task.fidelity, seed)
                else:
                    contender = Ours(label, task, seed)
                curve = simulate(contender, task, args.workers, CHECKPOINTS[-1])
            except PeerEnded as error:
                print(f"{label} on {name}, seed {seed}: {error}", file=sys.stderr)
                contenders.forget(label)
                continue
            line = {"strategy": shown, "instance": name, "seed": seed, "workers": args.workers}
            line |= {"wall": round(time.perf_counter() - begin, 2), "curve": curve}
            with args.out.open("a") as out:
                out.write(json.dumps(line) + "\n")


def _trained(task: trainings.Task, config: Mapping[str, Any]) -> float:
    """The loss of a full training."""
    return float(task.losses(config, [task.fidelity.max])[-1])


def _at(curve: Sequence[Sequence[float]], spent: float) -> float:
    """The regret once so much was spent; before anything has ended, that of one random training or so."""
    return next((regret for at, regret in reversed(curve) if at <= spent + 1e-9), max(curve[0][1], 1.0))


def _studies(args: argparse.Namespace) -> dict[str, dict[tuple[str, int], Any]]:
    found: dict[str, dict[tuple[str, int], Any]] = defaultdict(dict)
    for line in standings.read(args.results):
        if line["workers"] == args.workers and (args.strategies is None or line["strategy"] in args.strategies):
            found[line["strategy"]][line["instance"], line["seed"]] = line["curve"]
    if not found:
        raise SystemExit(f"no study with {args.workers} workers in {', '.join(map(str, args.results))}")
    return found


def table(args: argparse.Namespace) -> None:
    """Mean regret and rank at each checkpoint, over the studies that all strategies share"""
    found = _studies(args)
    shared = sorted(set.intersection(*(set(studies) for studies in found.values())))
    if not shared:
        raise SystemExit(f"no study was run for all of {', '.join(found)}; name fewer with --strategies")
    for family in [*dict.fromkeys(name.split("/")[0] for name, _ in shared), ""] if args.families else [""]:
        keys = [key for key in shared if key[0].startswith(family)]
        regret = np.array(
            [[[_at(studies[key], spent) for spent in CHECKPOINTS] for key in keys] for studies in found.values()]
        )
        print(f"\n{family or 'all'}: {standings.coverage_of(keys)}, {args.workers} workers\n")
        ranks = stats.rankdata(regret, axis=0).mean(axis=1)
        rows = []
        for i, label in enumerate(found):
            by_key = dict(zip(keys, regret[i], strict=True))
            mean, half = standings.interval(standings.over_instances(by_key, keys))
            cells = [f"{m:.3f} ±{h:.3f}" for m, h in zip(mean, half, strict=True)]
            rows.append([label, *cells, " ".join(f"{rank:.2f}" for rank in ranks[i])])
        print(markdown(["strategy", *(f"regret {at}" for at in CHECKPOINTS), "ranks"], rows))


def plot(args: argparse.Namespace) -> None:
    """A picture of the mean regret by fidelity spent, over the studies that all strategies share"""
    from matplotlib.figure import Figure

    found = _studies(args)
    shared = sorted(set.intersection(*(set(studies) for studies in found.values())))
    spent = np.geomspace(2, CHECKPOINTS[-1], 60)
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for label, studies in sorted(found.items()):
        values = np.mean([[_at(studies[key], at) for at in spent] for key in shared], axis=0)
        axes.plot(spent, values, label=label.removeprefix("peer:"), linestyle="--" if "peer:" in label else "-")
    axes.set(xscale="log", yscale="log", xlabel="full trainings' worth of fidelity spent", ylabel="normalised regret")
    axes.set_xticks([2, *CHECKPOINTS], [str(each) for each in (2, *CHECKPOINTS)])
    axes.set_title(f"{standings.coverage_of(shared)}, {args.workers} workers", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(args.png)


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="run studies")
    runs.set_defaults(action=run)
    runs.add_argument("names", nargs="+", help="strategies, or peer:NAME")
    runs.add_argument("--out", type=Path, default=OUT)
    runs.add_argument("--tasks", nargs="*", help="instead of the panel")
    runs.add_argument("--belief", choices=BELIEFS, default="none", help="what the user believes: benchmarks/prior.py")
    runs.add_argument("--seeds", type=int, default=10)
    runs.add_argument("--first-seed", type=int, default=0)
    runs.add_argument("--python", help="the interpreter that has the peers, if not that of `make peers`")
    for action in (table, plot):
        shows = commands.add_parser(action.__name__, help=action.__doc__)
        shows.set_defaults(action=action)
        shows.add_argument("results", type=Path, nargs="*", default=[OUT])
        shows.add_argument("--strategies", nargs="*", help="these alone")
        if action is table:
            shows.add_argument("--families", action="store_true", help="a table for each family, too")
        else:
            shows.add_argument("--png", type=Path, default=Path("multi-fidelity.png"))
    for sub in commands.choices.values():
        sub.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
