"""Defines what a study file may say: the keys, their checks, and what follows from them.

The definition is stored with the study in MLflow; on resume the given one is held against the stored one.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from itertools import starmap
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from hpo_core.base import cards
from hpo_core.base.errors import InputError
from hpo_core.base.importing import is_reference
from hpo_core.base.storable import bad_metric
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.front import compromise
from hpo_core.history.limits import Limit
from hpo_core.history.trial import Trial
from hpo_core.selection.early_stopping import Extrapolation, StopRule
from hpo_core.selection.repeats import Repeats
from hpo_core.space.configuration import identity
from hpo_core.space.parameters import Parameter
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.make import STRATEGIES, known_class, strategy_class
from hpo_core.study.callbacks import checked_callback
from hpo_core.study.isolation import check_isolation
from hpo_core.study.names import BAD_NAME, MAX_NAME_LENGTH, NAME
from hpo_core.study.objectives import Direction, Objective, check_objectives, with_first
from hpo_core.study.preference import Preference, check_wishes, preference_of
from hpo_core.study.sections import (
    READING,
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
    as_texts,
    check_past,
    check_repeats,
    check_rule,
    check_strategy,
)

MOST_PARALLEL = 1000

KEPT_WISHES = "kept wishes"
"""Another thing that a validation may be told: ``prefer`` and ``limits`` of the study that goes on, which earlier
versions checked less."""

FOLDERS = "folders"
"""Beside :data:`READING`, what a validation may be told: the folders to look into for what is imported."""

NEED_OBJECTIVE = (
    "retries", "trial_timeout", "memory_limit", "callbacks", "final", "champion", "notify", "runner", "resources",
)  # fmt: skip
"""The keys for what a flow does when it trains. Whoever asks for trials trains them without a flow."""


class StudyDefinition(Section):
    """The keys of a study file, validated; :class:`hpo_core.study.spec.StudySpec` says what they make a study do."""

    name: str = Field(
        description="The study's name; resuming means running under the same name.", max_length=MAX_NAME_LENGTH
    )
    experiment: str = Field("", description="MLflow experiment; the study's name where absent.", max_length=500)
    objective: str = Field(
        "",
        description="module:function, importable from the working folder or the file's; asked trials need none.",
    )
    metric: str = Field(description="What the objective returns and MLflow shows.", min_length=1, max_length=250)
    direction: Direction = Field(description="Whether less or more of the metric is better.")
    metrics: dict[str, Direction] = Field(
        {}, description="Two or three metrics at once, such as {accuracy: maximize, latency_ms: minimize}."
    )
    prefer: Annotated[list[str], BeforeValidator(as_texts)] = Field(
        [], description="With several metrics, which point of the front stands for the study: 'latency_ms <= 10'."
    )
    limits: dict[str, str] = Field({}, description="What other metrics must keep to, such as latency_ms: <= 20.")
    cost: str = Field(
        "",
        description="What a trial costs: seconds, which are measured, or a metric that the objective logs.",
        max_length=250,
    )
    space: dict[str, Parameter] = Field(min_length=1, description="What is tuned: the parameters by name.")
    prior: dict[str, BeliefSpec] = Field(
        {}, description="What you believe about good values, by parameter: {around: 1e-3, confidence: medium}."
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
    edition: str = Field("", description="Which edition of the space this is; the study keeps it.")
    editions: list[Edition] = Field([], description="Earlier spaces of the study; the study keeps them.")

    @model_validator(mode="before")
    @classmethod
    def _first_metric(cls, data: Any) -> Any:
        return with_first(data)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        """A key without a value, such as ``limits:`` whose entries are all commented out, counts as not given."""
        if not isinstance(data, Mapping):
            return data
        valued = {key for key, field in cls.model_fields.items() if field.default is not None}
        return {key: value for key, value in data.items() if value is not None or key not in valued}

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        return {key: value for key, value in data.items() if not (self.metrics and key in ("metric", "direction"))}

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

    @field_validator("metric", "metrics", "limits")
    @classmethod
    def _loggable(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for metric in [value] if isinstance(value, str) else value:
            if problem := bad_metric(metric):
                raise ValueError(f"{metric!r} is not a metric that MLflow can keep; {problem}")
        return value

    @field_validator("limits", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        for metric, text in value.items() if isinstance(value, dict) else ():
            try:
                Limit.parse(str(metric), text if isinstance(text, str) else repr(text))
            except ValueError as error:
                problem, _, remedy = str(error).partition("; ")
                raise InputError(str(metric), problem, remedy) from None
        return value

    @field_validator("cost")
    @classmethod
    def _payable(cls, value: str) -> str:
        if value:
            cls._loggable(value)
        return value

    @field_validator("objective", "data")
    @classmethod
    def _reference(cls, value: str) -> str:
        if not value:
            return value
        if not is_reference(value):
            raise ValueError("write it as module:function, such as examples.digits_cnn:train")
        return value

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> Self:
        reading = (info.context or {}).get(READING, False)
        if not reading:
            for field, name in self.strategy.names.items():
                strategy_class(name, field, (info.context or {}).get(FOLDERS, ()))
        if not self.experiment:
            object.__setattr__(self, "experiment", self.name)
        self._check_first(reading)
        self._check_fidelity()
        self._check_cost()
        self._check_objective()
        check_objectives(self)
        if self.prefer and not reading and (self.prefer, self.limits) != (info.context or {}).get(KEPT_WISHES):
            check_wishes(self.prefer, self.limiting, self.objectives)
        check_isolation(self)
        if self.runner.elsewhere and self.resources.gpus == "auto":
            raise ValueError("resources.gpus: auto divides the GPUs of this machine, and others train; give a number")
        if self.final is not None:
            self.final.check(self.search_space)
        if self.repeats not in (None, RepeatsSpec()) and (why := self._why_never_repeated):
            raise ValueError(f"repeats: {why}; remove one of the two")
        if not reading or not self._needs_more:
            self._check_strategy(self.search_space)
        return self

    @property
    def _needs_more(self) -> bool:
        """Whether the strategy needs code or packages that may be absent where the study is only read."""
        return any(name not in STRATEGIES or STRATEGIES[name].package for name in self.strategy.names.values())

    def _check_strategy(self, space: SearchSpace) -> None:
        """Check that the strategy can be made, and can search the space.

        Raises:
            ValueError: It cannot; the message begins with the key.
        """
        try:
            strategy = self.strategy.make(fidelity=self.scale)
            strategy.check(space)
            if self.metrics:
                strategy.check_several()
            if self.limits:
                strategy.check_limits()
        except InputError:
            raise
        except ValueError as error:
            raise ValueError(f"strategy.{error}") from None

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

    def _check_cost(self) -> None:
        """Check that the study has costs if something counts them.

        Raises:
            ValueError: It has none; the message begins with the key.
        """
        if self.cost in {objective.metric for objective in self.objectives}:
            raise ValueError(f"cost: {self.cost!r} is what the study tunes; name another metric, or seconds")
        if self.stop.worth is not None and len(self.objectives) > 1:
            raise ValueError(
                "stop.worth: no single one of several metrics says what a gain is worth; give another rule"
            )
        for key in ("cost", "worth"):
            if not self.cost and getattr(self.stop, key) is not None:
                raise ValueError(f"stop.{key}: the study has no cost; add cost: seconds, or remove this")

    def _check_first(self, reading: bool) -> None:
        space, places = self.search_space, dict[str, int]()
        for i, config in enumerate(self.first):
            try:
                key = identity(space.validated(config))
            except ValueError as error:
                raise ValueError(f"first.{i}: {error}") from None
            if (same := places.setdefault(key, i)) != i and not reading:
                raise ValueError(f"first.{i}: it equals first.{same}, and no configuration is tried twice; remove it")

    def _check_fidelity(self) -> None:
        """Check that the fidelity, the strategy, the stop rules and early stopping fit each other.

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
            if known_class(self.strategy.name).chooses_fidelity:
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
        strategy = known_class(self.strategy.name)
        if self.metrics:
            return "of several metrics none says which configurations are worth it (final trains the front again)"
        if self.final is not None:
            return "final already trains the best configurations again"
        if strategy.reconfigures:
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
        """Whether the strategy makes no progress unless trials log hypergradients."""
        return strategy_class(self.strategy.name).needs_hypergradient

    @cached_property
    def limiting(self) -> tuple[Limit, ...]:
        """The limits on results."""
        return tuple(Limit.parse(metric, text) for metric, text in self.limits.items())

    @cached_property
    def search_space(self) -> SearchSpace:
        beliefs = {name: belief.make() for name, belief in self.prior.items()}
        return SearchSpace(self.space, tuple(self.constraints), beliefs)

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What is optimised: one metric, or two or three. ``metric`` and ``direction`` are the first one's."""
        return tuple(starmap(Objective, (self.metrics or {self.metric: self.direction}).items()))

    @property
    def preference(self) -> Preference | None:
        """What ``prefer`` says; None if it is not given."""
        return preference_of(self.prefer, self.objectives, "prefer", reading=True) if self.prefer else None

    def stands_for(self, front: Sequence[Trial]) -> Trial | None:
        """The point of a Pareto front that stands for the study, which with one metric is its only one.

        It is the one that ``prefer`` picks; the compromise if nothing is preferred, or nothing on the front keeps it.
        """
        wanted = self.preference
        return compromise(front) if wanted is None or wanted.unmet(front) else wanted.choose(front, self.objectives)

    @property
    def compared(self) -> Objective:
        """The metric by which the winner and the champion are compared: of several, the one that ``prefer`` leaves."""
        wanted = self.preference
        return (None if wanted is None else wanted.compared(self.objectives)) or self.objectives[0]

    @property
    def goal(self) -> str:
        """What is optimised, in words."""
        return ", ".join(map(str, self.objectives))

    def first_of(self, metrics: Container[str]) -> str:
        """The first of the study's own metrics that is among these; empty if none is."""
        return next((each.metric for each in self.objectives if each.metric in metrics), "")

    @property
    def targets(self) -> dict[str, float]:
        """The values that are good enough, by metric; empty if the study is not to end at any."""
        target = self.stop.target
        return {} if target is None else target if isinstance(target, dict) else {self.metric: target}

    @property
    def sign(self) -> int:
        """+1 if the metric is minimised, -1 if it is maximised."""
        return self.objectives[0].sign

    def loss(self, value: float) -> float:
        """The metric's value as something to be minimised."""
        return self.objectives[0].loss(value)

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
        # The others are documents of their own, which nobody overwrites; see hpo_core/ledger/study_run.py.
        data["editions"] = [each.model_dump(mode="json") for each in self.editions if each.until is not None]
        return data

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        facts: dict[str, object] = {"objective": self.objective, "strategy": self.strategy.name}
        facts |= {"constraints": ", ".join(self.constraints)} if self.constraints else {}
        facts |= {"limits": ", ".join(map(str, self.limiting))} if self.limits else {}
        for name in ("stop", "fidelity", "early_stop", "final", "champion"):
            if (section := getattr(self, name)) is not None:
                facts[name] = _set(section) or "as by default"
        space = [(name, parameter.type, _set(parameter)) for name, parameter in self.space.items()]
        title = f"{self.name}: {self.goal}"
        return cards.card(title, cards.facts(facts), cards.table(["parameter", "type", "values"], space))


def _set(section: BaseModel) -> str:
    """What was set in a section, apart from its type, as text."""
    values = section.model_dump(mode="json", exclude={"type"}, exclude_defaults=True)
    return ", ".join(f"{name}: {value}" for name, value in values.items())
