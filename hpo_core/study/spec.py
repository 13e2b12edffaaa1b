"""Defines the study specification: what to tune, over which search space, by which strategy, and until when.

The specification is stored with the study in MLflow; on resume the given one is held against the stored one.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from hpo_core.base import cards
from hpo_core.base.errors import InputError
from hpo_core.base.storable import bad_metric
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.limits import Limit
from hpo_core.history.trial import PURPOSE, REPEAT_OF, Proposal, Trial, fidelity_key
from hpo_core.selection.early_stopping import Extrapolation, StopRule
from hpo_core.selection.folds import as_whole
from hpo_core.selection.repeats import Repeats
from hpo_core.space.configuration import Config, Scalar
from hpo_core.space.parameters import Parameter
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.make import expected, strategy_class
from hpo_core.study.callbacks import checked_callback
from hpo_core.study.failing import failed_alike
from hpo_core.study.instructions import ENQUEUED
from hpo_core.study.isolation import check_isolation
from hpo_core.study.names import BAD_NAME, MAX_NAME_LENGTH, NAME
from hpo_core.study.sections import (
    BeliefSpec,
    ChampionSpec,
    EarlyStopSpec,
    Edition,
    FidelitySpec,
    FinalSpec,
    NotifySpec,
    RepeatsSpec,
    Resources,
    RunnerSpec,
    Section,
    StopRules,
    StrategySpec,
    WarmStart,
    as_bytes,
    as_entries,
    check_past,
    check_repeats,
    check_rule,
    check_strategy,
)

MOST_PARALLEL = 1000

NO_QUEUE: Mapping[str, Config] = MappingProxyType({})

NEED_OBJECTIVE = (
    "retries", "trial_timeout", "memory_limit", "callbacks", "final", "champion", "notify", "runner", "resources",
)  # fmt: skip
"""The keys for what a flow does when it trains. Whoever asks for trials trains them without a flow."""


class StudySpec(Section):
    """A study file, validated.

    >>> spec = StudySpec.model_validate({
    ...     "name": "parabola", "objective": "parabola:loss", "metric": "loss", "direction": "minimize",
    ...     "space": {"x": {"type": "float", "low": -1, "high": 1}}, "stop": {"trials": 3},
    ... })
    >>> spec.experiment, spec.strategy.name, spec.loss(0.25)
    ('parabola', 'auto', 0.25)
    """

    name: str = Field(
        description="The study's name; resuming means running under the same name.", max_length=MAX_NAME_LENGTH
    )
    experiment: str = Field("", description="MLflow experiment; the study's name where absent.", max_length=500)
    objective: str = Field(
        "",
        description="module:function, importable from the working folder or the file's; asked trials need none.",
    )
    metric: str = Field(description="What the objective returns and MLflow shows.", min_length=1, max_length=250)
    direction: Literal["minimize", "maximize"] = Field(description="Whether less or more of the metric is better.")
    limits: dict[str, str] = Field({}, description="What other metrics must keep to, such as latency_ms: <= 20.")
    space: dict[str, Parameter] = Field(min_length=1, description="What is tuned: the parameters by name.")
    prior: dict[str, BeliefSpec] = Field(
        {}, description="What you believe of good values, by parameter: {around: 1e-3, confidence: medium}."
    )
    constraints: list[str] = Field(
        [], description="Expressions that hold for every configuration, such as min_units <= max_units."
    )
    strategy: Annotated[StrategySpec, BeforeValidator(check_strategy)] = Field(
        StrategySpec(name="auto"), description="What chooses the configurations."
    )
    fidelity: FidelitySpec | None = Field(None, description="What trainings can be cut short in.")
    early_stop: Annotated[EarlyStopSpec | None, BeforeValidator(check_rule)] = Field(
        None, description="The rule that stops running trials."
    )
    stop: StopRules
    data: str = Field("", description="module:function that returns the data; once they change, a dated study begins.")
    parallel: int = Field(1, ge=1, le=MOST_PARALLEL, description="Trials at a time.")
    isolation: Literal["process", "none"] = Field(
        "process", description="Where a trial trains: in a process of its own, or in the study's (none), one at a time."
    )
    retries: int = Field(0, ge=0, le=100, description="Further attempts at a trial that raised or whose process died.")
    rerun_lost: int = Field(
        2, ge=0, le=100, description="How often a trial is run again that died with its flow or its machine; 0: never."
    )
    trial_timeout: float | None = Field(None, gt=0, description="Seconds after which a trial is ended as failed.")
    memory_limit: Annotated[int | None, BeforeValidator(as_bytes)] = Field(
        None, ge=1, description="Memory that a trial's process may hold, such as 2GiB; beyond it the trial is failed."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of every proposal, and of the seeds that trials get.")
    first: list[dict[str, Any]] = Field([], description="Configurations to try before the strategy's own.")
    warm_start: list[Annotated[WarmStart, BeforeValidator(check_past)]] = Field(
        [], description="Past runs to learn from, fixed when the study is created."
    )
    callbacks: list[Annotated[dict[str, dict[str, Any]], BeforeValidator(checked_callback)]] = Field(
        [], description="Keras callbacks, each {name: settings}; the objective gets them as trial.callbacks."
    )
    repeats: Annotated[RepeatsSpec | None, BeforeValidator(check_repeats)] = Field(
        RepeatsSpec(), description="auto, off, or how much of a noisy study trains its best configurations again."
    )
    final: FinalSpec | None = Field(None, description="How the winner is chosen; the incumbent where absent.")
    champion: ChampionSpec | None = Field(None, description="The registered model that the winner is held against.")
    notify: Annotated[list[NotifySpec], BeforeValidator(as_entries)] = Field([], description="Who is told of what.")
    runner: RunnerSpec = Field(RunnerSpec(), description="Where trials are trained.")
    resources: Resources = Field(Resources(), description="What one trial at a time may use.")
    editions: list[Edition] = Field([], description="Earlier spaces of a study that has grown; the study keeps them.")

    @field_validator("name", "experiment")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value and (not NAME.fullmatch(value) or value.strip() != value):
            raise ValueError(BAD_NAME)
        return value

    @field_validator("name")
    @classmethod
    def _some_name(cls, value: str) -> str:
        if not value:
            raise ValueError("the name is empty")
        return value

    @field_serializer("repeats")
    def _as_written(self, value: RepeatsSpec | None) -> Any:
        return "off" if value is None else value

    @field_validator("metric")
    @classmethod
    def _loggable(cls, value: str) -> str:
        if problem := bad_metric(value):
            raise ValueError(f"{value!r} is not a metric that MLflow can keep; {problem}")
        return value

    @field_validator("limits")
    @classmethod
    def _readable(cls, value: dict[str, str]) -> dict[str, str]:
        for metric, text in value.items():
            if problem := bad_metric(metric):
                raise ValueError(f"{metric!r} is not a metric that MLflow can keep; {problem}")
            Limit.parse(metric, text)
        return value

    @field_validator("objective", "data")
    @classmethod
    def _reference(cls, value: str) -> str:
        if not value:
            return value
        module, _, function = value.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
            raise ValueError("write it as module:function, such as examples.digits_cnn:train")
        return value

    @model_validator(mode="after")
    def _whole(self) -> StudySpec:
        if not self.experiment:
            object.__setattr__(self, "experiment", self.name)
        space = self.search_space
        for i, config in enumerate(self.first):
            try:
                space.validated(config)
            except ValueError as error:
                raise ValueError(f"first.{i}: {error}") from None
        self._check_fidelity()
        self._check_objective()
        check_isolation(self)
        if self.runner.elsewhere and self.resources.gpus == "auto":
            raise ValueError("resources.gpus: auto divides the GPUs of this machine, and others train; give a number")
        if self.final is not None:
            self.final.check(space)
        if self.repeats not in (None, RepeatsSpec()) and (why := self._why_never_repeated):
            raise ValueError(f"repeats: {why}; remove one of the two")
        try:
            self.strategy.make(fidelity=self.scale).check(space)
        except InputError:
            raise
        except ValueError as error:
            raise ValueError(f"strategy.{error}") from None
        return self

    def _check_objective(self) -> None:
        """Check that nothing is asked for that only a flow does with an objective.

        Raises:
            ValueError: It is; the message begins with the key.
        """
        if self.objective:
            return
        for key in NEED_OBJECTIVE:
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                raise ValueError(
                    f"{key}: hpo tune does this with an objective, and the study has none; remove it, or add "
                    "objective: module:function"
                )

    def _check_fidelity(self) -> None:
        """Check what the fidelity, the strategy, the stop rules and the rule of early stopping want of each other.

        Raises:
            ValueError: One wants what is not there; the message begins with the key.
        """
        if self.fidelity is not None:
            try:
                self.fidelity.make()
            except ValueError as error:
                raise ValueError(f"fidelity.{error}") from None
        else:
            example = "add fidelity: {name: epochs, min: 1, max: 27, eta: 3}, say"
            if strategy_class(self.strategy.name).chooses_fidelity:
                raise ValueError(
                    f"fidelity: it is missing, and the strategy {self.strategy.name!r} needs it; {example}"
                )
            if self.stop.full_trainings is not None:
                raise ValueError(f"stop.full_trainings: without a fidelity no training is counted; {example}")
        if self.early_stop is None:
            return
        rule = self.early_stop.make()
        if self.fidelity is not None and not self.fidelity.make().whole:
            raise ValueError(
                "early_stop: it counts steps, but the study's fidelity is not counted in whole steps; leave it out, or "
                "give fidelity.min and fidelity.max as whole numbers"
            )
        if isinstance(rule, Extrapolation) and rule.steps is None and self.fidelity is None:
            raise ValueError("early_stop.steps: it is missing; say how many steps a full training has")

    @property
    def scale(self) -> Fidelity | None:
        """The fidelity as strategies take it."""
        return None if self.fidelity is None else self.fidelity.make()

    @cached_property
    def stop_rule(self) -> StopRule | None:
        """The rule that stops running trials."""
        return None if self.early_stop is None else self.early_stop.make()

    @property
    def promotes(self) -> bool:
        """Whether trials may go on from others, so that checkpoints are worth keeping."""
        return strategy_class(self.strategy.name).promotes

    @cached_property
    def repeating(self) -> Repeats | None:
        """How configurations are trained again; None if none is, or if the final choice does it."""
        return None if self.repeats is None or self._why_never_repeated else self.repeats.make()

    @property
    def _why_never_repeated(self) -> str:
        """Why no configuration of this study can be trained again; empty if it can."""
        strategy = strategy_class(self.strategy.name)
        if self.final is not None:
            return "final already trains the best configurations again"
        if strategy.promotes and not strategy.chooses_fidelity:
            return f"trials of {self.strategy.name!r} go on from each other, so none can be trained again by itself"
        return ""

    @property
    def reshuffles(self) -> bool:
        """Whether each trial has a split of its own, so that no configuration is fitted to the luck of one split."""
        return self.repeats is not None

    @property
    def full(self) -> float | None:
        """The fidelity of a full training; None if the study has none."""
        return None if self.scale is None else self.scale.levels[-1]

    @property
    def needs_hypergradient(self) -> bool:
        """Whether the strategy goes nowhere unless trials log hypergradients."""
        return strategy_class(self.strategy.name).needs_hypergradient

    @cached_property
    def limiting(self) -> tuple[Limit, ...]:
        """The limits on results."""
        return tuple(Limit.parse(metric, text) for metric, text in self.limits.items())

    @cached_property
    def search_space(self) -> SearchSpace:
        beliefs = {name: belief.make() for name, belief in self.prior.items()}
        return SearchSpace(self.space, tuple(self.constraints), beliefs)

    @property
    def sign(self) -> int:
        """+1 if the metric is minimised, -1 if it is maximised."""
        return 1 if self.direction == "minimize" else -1

    def loss(self, value: float) -> float:
        """The metric's value as something to be minimised."""
        return self.sign * value

    @property
    def memory_cap(self) -> int | None:
        """Bytes beyond which a trial's process is ended."""
        return self.memory_limit if self.memory_limit is not None else self.resources.memory

    def to_json(self) -> str:
        """What is stored in MLflow: all but addresses of receivers that may be secrets."""
        return json.dumps(self.stored())

    def stored(self) -> dict[str, Any]:
        """As plain data, as far as it is stored in MLflow."""
        data = self.model_dump(mode="json")
        data["notify"] = [entry.model_dump(mode="json") for entry in self.notify if entry.stored]
        return data

    def with_total_trials(self, stored: StudySpec, started: int, ended: bool) -> tuple[StudySpec, str]:
        """The specification with a total number of trials, where it says only how many more there are to be.

        A run of the study that was killed, or stopped before its total, is made up for first.

        Args:
            stored: What stands with the study; the total of its last run is in it.
            started: How many trials the study has, as :meth:`started` counts them.
            ended: Whether its last run came to its end.

        Returns:
            The specification, and why it has this total; empty where it says itself.
        """
        more, last = self.stop.trials, stored.stop.trials
        if not self.stop.more or more is None:
            return self, ""
        if not started:
            total, why = more, f"begins with {more} trials"
        elif last is not None and (started < last or not ended):
            total, why = last, f"goes on to {last} trials: its last run did not get there ({started} are started)"
        else:
            total, why = started + more, f"goes on to {started + more} trials: {more} more than it has"
        return self.with_total(total), why

    def with_total(self, trials: int | None) -> StudySpec:
        """The specification with another total number of trials."""
        return self.model_copy(update={"stop": self.stop.model_copy(update={"trials": trials, "more": False})})

    @property
    def as_new_study(self) -> StudySpec:
        """The specification as a new study stores it: +20 trials are its first 20."""
        return self.with_total(self.stop.trials)

    @np.errstate(all="warn", under="ignore")  # numpy's own default: what an objective's module sets is its own affair
    def propose(self, history: History, n: int, queue: Mapping[str, Config] = NO_QUEUE) -> list[Proposal]:
        """Up to ``n`` proposals: what was enqueued, lost trials again, the rest of ``first``, then the strategy's.

        Pure, as strategies are. What was enqueued or is in ``first`` and was tried before is not proposed again.

        A strategy does not see a lost trial that is run again, for nothing was wrong with it: it sees the other one.

        In a study with a fidelity, a strategy that knows nothing of it trains to the end. What ``first`` names begins
        at the lowest level where the strategy promotes, as everything does. So does what was enqueued.

        Args:
            history: The study so far.
            n: How many to propose at most.
            queue: The configurations that people want to be tried next, by id.
        """
        full, taken = self.full, set(history.identities)
        proposals: list[Proposal] = []
        for id, config in queue.items():
            with contextlib.suppress(ValueError):  # it was checked when it was enqueued; a tag is open to every hand
                proposals += self._given(config, {"strategy": ENQUEUED, ENQUEUED: id}, taken)
        proposals += self._again(history)
        for config in self.first:
            proposals += self._given(config, {"strategy": "first"}, taken)
        proposals = proposals[:n]
        if len(proposals) < n and self.repeating is not None:
            probe = self.repeating.probe(history, full, self.stop.trials)
            proposals += [] if probe is None else [probe]
        if len(proposals) < n:
            seen = as_whole(history.with_pending(proposals).without_retaken().merged)
            strategy = self.strategy.make(self.stop.trials, self.scale)
            proposals += strategy.propose(self.search_space, seen, n - len(proposals), seed=self.seed)
        return [each if each.fidelity is not None else replace(each, fidelity=full) for each in proposals]

    def _given(self, config: Config, notes: Mapping[str, Scalar], taken: set[str]) -> list[Proposal]:
        """The proposal of a configuration that people gave, unless it is taken, which it is from now on.

        Raises:
            ValueError: The space has no such configuration.
        """
        lowest = None if self.scale is None else self.scale.levels[0]
        fidelity = lowest if strategy_class(self.strategy.name).chooses_fidelity else self.full
        proposal = Proposal(self.search_space.validated(config), fidelity, notes=notes)
        if proposal.identity in taken:
            return []
        taken.add(proposal.identity)
        return [proposal]

    def _again(self, history: History) -> list[Proposal]:
        """The lost trials that are due once more, as proposals."""
        again: list[Proposal] = []
        for trial in self._due(history):
            attempt = self._next_attempt(trial)
            notes: dict[str, Scalar] = {"strategy": "retry", "retry_of": trial.number, "attempt": attempt}
            notes |= {key: trial.notes[key] for key in ("bracket", "rung", REPEAT_OF, PURPOSE) if key in trial.notes}
            again.append(Proposal(trial.config, trial.fidelity, trial.parent, notes))
        return again

    def _due(self, history: History) -> list[Trial]:
        """The lost trials that are to be run again and that nobody has taken up."""
        due = [trial for trial in history.lost if trial.number not in history.retaken]
        return [trial for trial in due if self._next_attempt(trial) is not None]

    def _next_attempt(self, trial: Trial) -> int | None:
        """The attempt that a lost trial is due for; None if there is to be no further one.

        Counted are deaths, of which the trial itself may have been the cause. Whoever stops a flow stops it for
        reasons of their own, so an interrupted trial is run again however often that happens.
        """
        attempt = str(trial.notes.get("attempt", "0"))  # of a tag, and so of anybody's making
        if not re.fullmatch(r"[0-9]{1,3}", attempt) or not self.rerun_lost:
            return None
        if trial.notes.get("lost") == "interrupted":
            return int(attempt)
        return int(attempt) + 1 if int(attempt) < self.rerun_lost else None

    def retaken(self, history: History) -> frozenset[int]:
        """The numbers of the lost trials that another one stands for, or is about to: these count for nothing."""
        return history.retaken | {trial.number for trial in self._due(history)}

    def started(self, history: History) -> int:
        """How many trials count as started; one that is lost and run again counts once."""
        return history.next_number - len(self.retaken(history))

    def ended(self, history: History) -> int:
        """How many trials count as ended, well or not."""
        return len(history.complete) + len(history.failed) - len(self.retaken(history))

    def spent(self, history: History) -> float:
        """The full trainings' worth that counts as spent; only for a study with a fidelity."""
        assert self.scale is not None
        return history.spent(self.scale, apart=self.retaken(history))

    def resumable(self, history: History) -> frozenset[int]:
        """The numbers of the trials whose checkpoints are needed.

        A trial goes on from them now, or is to once more because it was lost; they may yet be promoted; or they are the
        incumbent's, which is what one would go on with by hand.
        """
        strategy = self.strategy.make(fidelity=self.scale)
        parents = {trial.parent for trial in history}
        candidates = strategy.promotable(history.merged)
        if strategy_class(self.strategy.name).chooses_fidelity:
            candidates -= parents
        now = [trial.parent for trial in history.running] + [proposal.parent for proposal in self._again(history)]
        needed = {number for number in now if number is not None} | candidates
        return frozenset(needed | ({history.incumbent.number} if history.incumbent is not None else set()))

    def stop_reason(self, history: History, minutes: float) -> str | None:
        """Why no further trial is to start; None if one may.

        Args:
            history: The study so far.
            minutes: Minutes since this run of the study started.
        """
        stop = self.stop
        if stop.trials is not None and self.search_left(history) <= 0:
            if (left := stop.trials - self.started(history)) > 0:
                return f"the last {left} of {stop.trials} trials confirm the best configurations"
            return f"all {stop.trials} trials are {'started' if history.running else 'done'}"
        history = history.searched
        best = history.incumbent
        if (
            stop.target is not None
            and best is not None
            and best.loss is not None
            and best.feasible
            and best.loss <= self.loss(stop.target)
        ):
            return f"{self.metric} reached the target {stop.target:g}"
        full = self.fidelity is None or (best is not None and fidelity_key(best.fidelity) >= self.fidelity.max)
        if stop.no_improvement is not None and full and history.since_improvement() >= stop.no_improvement:
            return f"{history.since_improvement()} trials without improvement"
        if stop.full_trainings is not None and self.scale is not None:
            spent = self.spent(history)
            if spent >= stop.full_trainings - 1e-9:  # a sum of thirds
                return f"{spent:.4g} full trainings' worth is spent"
        if stop.minutes is not None and minutes >= stop.minutes:
            return f"{stop.minutes:g} minutes are over"
        return None

    def _confirmations_within(self, history: History, trials: int) -> int:
        """How many of the trials that are left are kept for confirming."""
        if self.repeating is None:
            return 0
        return min(self.repeating.left(history, trials), max(trials - self.started(history), 0))

    def search_left(self, history: History) -> float:
        """How many trials the search may still start before the rule ``trials`` ends it; infinite without that rule."""
        if self.stop.trials is None:
            return math.inf
        return self.stop.trials - self.started(history) - self._confirmations_within(history, self.stop.trials)

    def confirm(self, history: History, exhausted: bool) -> Proposal | None:
        """The training that confirms best, once the search is over; None if nothing is to be confirmed any more.

        Args:
            history: The study so far.
            exhausted: Whether the strategy has nothing more to propose, so that all trials that are left confirm.
        """
        if self.repeating is None:
            return None
        left = self.confirmations_left(history, exhausted)
        if exhausted and left and self.stop.trials is not None:
            return self.repeating.again(history, self.full)
        expect = partial(expected, self.search_space, seed=self.seed)
        return self.repeating.confirm(history, self.full, left, expect)

    def confirmations_left(self, history: History, exhausted: bool = False) -> int:
        """How many trainings are still to be made to confirm, once the search is over; see :meth:`confirm`."""
        repeats, trials = self.repeating, self.stop.trials
        if repeats is None or not repeats.noisy(history):
            return 0
        if trials is None:
            return repeats.left(history, None)
        left = max(trials - self.started(history), 0)
        within = self._confirmations_within(history, trials)
        return left if exhausted else within if within >= left else min(repeats.left(history, None), left)

    def repeated_error(self, history: History, earlier: Container[int] = ()) -> Trial | None:
        """The last of the trials that failed, if nothing but one and the same error has come of any.

        Args:
            history: The study so far.
            earlier: The numbers of trials that do not count, since the objective may have been mended after them.
        """
        if not self.stop.same_error or history.complete:
            return None
        return failed_alike([trial for trial in history.failed if trial.number not in earlier], self.parallel)

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        told: dict[str, object] = {"objective": self.objective, "strategy": self.strategy.name}
        told |= {"constraints": ", ".join(self.constraints)} if self.constraints else {}
        told |= {"limits": ", ".join(map(str, self.limiting))} if self.limits else {}
        for name in ("stop", "fidelity", "early_stop", "final", "champion"):
            if (section := getattr(self, name)) is not None:
                told[name] = _set(section) or "as by default"
        space = [(name, parameter.type, _set(parameter)) for name, parameter in self.space.items()]
        title = f"{self.name}: {self.direction} {self.metric}"
        return cards.card(title, cards.facts(told), cards.table(["parameter", "type", "values"], space))


def _set(section: BaseModel) -> str:
    """What was set in a section, apart from its type, as text."""
    values = section.model_dump(mode="json", exclude={"type"}, exclude_defaults=True)
    return ", ".join(f"{name}: {value}" for name, value in values.items())
