"""Strategies and peers as the same two calls: ask for configurations, tell their losses."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.make import make_strategy

Config = Mapping[str, Any]
Loss = float | Sequence[float] | None
"""A trial's loss, or its losses if there are several objectives; None for a failed trial."""
ASK = Path(__file__).parent / "peers" / "ask.py"
ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".venv-peers"
SHARED = {"hyperopt": "optuna", "skopt": "optuna"}
"""Peers that live in the environment of another; the others' are called as they are (see `make peers`)."""


class PeerEnded(RuntimeError):
    """A peer's process ended before its study did; what it said is on standard error."""


class Contender(Protocol):
    def ask(self, n: int) -> list[Config]:
        """Up to ``n`` configurations, before any of their losses is told."""

    def tell(self, losses: Sequence[Loss], excesses: Sequence[Mapping[str, float]] = ()) -> None:
        """The losses of what was asked for last, in its order. With limits, their excesses."""

    def history(self, trials: Sequence[tuple[Config, Loss]]) -> None:
        """Trials that it did not propose."""

    def seconds(self) -> float:
        """The processor time that it has spent until now."""


def make(name: str, fidelity: Fidelity | None = None) -> Strategy:
    """A strategy of the registry; its name may carry settings: ``bayesian:start=8,transform=log``."""
    return make_strategy(*settings_of(name), fidelity)


def settings_of(name: str) -> tuple[str, dict[str, Any]]:
    """A strategy's name and the settings that follow it."""
    label, _, text = name.partition(":")
    return label, {key: _value(value) for key, value in (pair.split("=") for pair in text.split(",") if pair)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class Ours:
    """A study of one of our strategies."""

    def __init__(self, name: str, space: SearchSpace, seed: int) -> None:
        self.strategy, self.space, self.seed = make(name), space, seed
        self.done: list[Trial] = []
        self.asked: list[Config] = []
        self.spent = 0.0

    def ask(self, n: int) -> list[Config]:
        begin = time.process_time()
        seen = History(self.done).merged
        self.asked = [p.config for p in self.strategy.propose(self.space, seen, n, seed=self.seed)]
        self.spent += time.process_time() - begin
        return list(self.asked)

    def tell(self, losses: Sequence[Loss], excesses: Sequence[Mapping[str, float]] = ()) -> None:
        first = len(self.done)
        self.history(list(zip(self.asked, losses, strict=True)))
        for i, excess in enumerate(excesses, first):
            self.done[i] = replace(self.done[i], excess=excess)

    def history(self, trials: Sequence[tuple[Config, Loss]]) -> None:
        for config, loss in trials:
            state = TrialState.FAILED if loss is None else TrialState.COMPLETE
            several = tuple(loss) if isinstance(loss, Sequence) else ()
            first = several[0] if isinstance(loss, Sequence) else loss
            self.done.append(Trial(len(self.done), config, state, first, losses=several))

    def seconds(self) -> float:
        return self.spent


class Process:
    """A peer's process, which speaks the lines that ``peers/ask.py`` describes; studies in it follow one another."""

    def __init__(self, python: str) -> None:
        threads = {key: "1" for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            [python, str(ASK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads
        )

    def send(self, message: Mapping[str, Any]) -> Any:
        """The answer to a message.

        Raises:
            PeerEnded: There is none.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise PeerEnded(f"its process ended with exit code {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Theirs:
    """A study of a peer in its process."""

    def __init__(
        self, process: Process, name: str, space: SearchSpace, seed: int, trials: int, objectives: int
    ) -> None:
        self.process = process
        described = {"peer": name, "space": json.loads(space.to_json()), "seed": seed, "trials": trials}
        described |= {"objectives": objectives} if objectives > 1 else {}
        process.send({"study": described})

    def ask(self, n: int) -> list[Config]:
        configs: list[Config] = self.process.send({"ask": n})
        return configs

    def tell(self, losses: Sequence[Loss], excesses: Sequence[Mapping[str, float]] = ()) -> None:
        if excesses:  # the last trials' limits, before their losses
            self.process.send({"limits": [list(excess.values()) for excess in excesses]})
        self.process.send({"tell": list(losses)})

    def history(self, trials: Sequence[tuple[Config, Loss]]) -> None:
        self.process.send({"history": list(trials)})

    def seconds(self) -> float:
        return float(self.process.send({"seconds": None}))


class Contenders:
    """Opens contenders by name, ``peer:NAME`` for a peer; peers' processes end with the context.

    Args:
        python: The interpreter that has the peers; None for those that `make peers` made.
    """

    def __init__(self, python: str | None = None) -> None:
        self.python = python
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Contenders:
        return self

    def __exit__(self, *_: object) -> None:
        for label in list(self.processes):
            self.forget(label)

    def open(self, name: str, space: SearchSpace, seed: int, trials: int, objectives: int = 1) -> Contender:
        """A new study of so many trials; some peers plan their start by their number."""
        if not name.startswith("peer:"):
            return Ours(name, space, seed)
        label = name.removeprefix("peer:")
        return Theirs(self.process(label), label, space, seed, trials, objectives)

    def process(self, label: str) -> Process:
        """The process of a peer, started if need be."""
        if label not in self.processes:
            package = label.split("_")[0]
            installed = ENVIRONMENTS / SHARED.get(package, package) / "bin" / "python"
            self.processes[label] = Process(self.python or str(installed))
        return self.processes[label]

    def forget(self, name: str) -> None:
        """Ends a peer's process; the next study of it has a new one."""
        if process := self.processes.pop(name.removeprefix("peer:"), None):
            process.close()
