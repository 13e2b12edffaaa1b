"""The study file: what to tune, over which space, by which strategy, and until when.

The specification is stored with the study in MLflow; on resume the given one is held against the stored one.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hpo_core.callbacks import checked_callback
from hpo_core.configuration import Scalar
from hpo_core.early_stop import Extrapolation, StopRule, make_rule
from hpo_core.errors import InputError, StudyConflict
from hpo_core.fidelity import Fidelity
from hpo_core.history import History
from hpo_core.selection import Rule, Selection
from hpo_core.space import Parameter, SearchSpace
from hpo_core.strategies import STRATEGIES, Promoting, Strategy, has_fidelity, has_setting, make_strategy
from hpo_core.trial import Proposal

MAX_FILE_BYTES = 1_000_000
MAX_NAME_LENGTH = 200

MAY_CHANGE = {
    "objective", "strategy", "stop", "early_stop", "parallel", "retries", "trial_timeout", "memory_limit", "seed",
    "first", "warm_start", "final", "data", "champion", "notify", "runner", "resources",
}  # fmt: skip
"""The keys that a resumed study takes from the new file. All others decide what the stored losses mean."""

# MLflow accepts more in a run's name, but a study's name also stands in filter strings, file names and URLs.
_BAD_NAME = "quotes, slashes, backslashes, percent signs, control characters and outer spaces cannot be used"
_NAME = re.compile(r"[^\x00-\x1f'\"`\\%/]+")
_BAD_MODEL = "a registered model's name has no slashes, colons, quotes or control characters, and is not empty"
_GOOD_MODEL = "write it as digits-classifier, say"
_MODEL = re.compile(r"(?!\.+$)[^\x00-\x1f'\"`\\%/:]+")


def study_name(name: str) -> str:
    """The name, if a study can have it: it stands in filter strings, which cannot quote.

    Raises:
        InputError: None can.
    """
    if not _NAME.fullmatch(name) or name.strip() != name or len(name) > MAX_NAME_LENGTH:
        problem = f"{name!r}: {_BAD_NAME}" if len(name) <= MAX_NAME_LENGTH else f"{len(name)} characters are too many"
        raise InputError("name", problem if name else "the name is empty", "give the name of a study, or its file")
    return name


def model_name(name: str) -> str:
    """The name, if a registered model can have it and a search can ask for it.

    Raises:
        InputError: It cannot.
    """
    if not _is_model(name):
        raise InputError("MODEL", f"{name!r}: {_BAD_MODEL}", _GOOD_MODEL)
    return name


def _is_model(name: str) -> bool:
    return bool(_MODEL.fullmatch(name)) and name.strip() == name and len(name) <= MAX_NAME_LENGTH


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted is not bool:  # pydantic would take True for 1
            raise ValueError(f"{value} is neither a text nor a number")
        return value


class StopRules(_Section):
    """When to start no further trial; trials that run are waited for. The first rule that holds ends the study."""

    trials: int | None = Field(
        None, ge=1, description="Total number of trials of the study, failed ones included; +20 is 20 more a run."
    )
    more: bool = Field(False, description="Whether trials counts from what the study has; written as trials: +20.")
    minutes: float | None = Field(None, gt=0, description="Minutes since this run of the study started.")
    target: float | None = Field(None, description="Value of the metric that is good enough.")
    no_improvement: int | None = Field(None, ge=1, description="Complete trials since the incumbent was found.")
    full_trainings: float | None = Field(None, gt=0, description="Total fidelity spent, in units of fidelity.max.")

    @model_validator(mode="before")
    @classmethod
    def _signed(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(text := data.get("trials"), str) and _MORE.fullmatch(text.strip()):
            return {**data, "trials": int(text), "more": True}
        return data

    @model_validator(mode="after")
    def _any(self) -> StopRules:
        rules = [name for name in type(self).model_fields if name != "more"]
        if self.more and self.trials is None:
            raise ValueError("it says more, but not how many trials; write trials: +20, say")
        if all(getattr(self, name) is None for name in rules):
            *some, last = rules
            raise ValueError(f"no rule is given, so the study would never end; give {', '.join(some)} or {last}")
        return self


_MORE = re.compile(r"\+[0-9]{1,9}")
"""A number of trials that counts from what the study has. To YAML the sign would be nothing."""


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is not a finite number above 0; correct it")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
"""A whole number stays one: whether a fidelity is counted in whole steps shows in how it is written."""


class FidelitySpec(_Section):
    """What trainings can be cut short in: how much a full one gets, and how little still says something."""

    name: str = Field(min_length=1, max_length=100, description="epochs, a share of the training set, trees, ...")
    min: Number = Field(description="The least that tells something.")
    max: Number = Field(description="A full training.")
    eta: float = Field(3, ge=2, description="The factor between two rungs.")

    def make(self) -> Fidelity:
        return Fidelity(self.name, self.min, self.max, self.eta)


class EarlyStopSpec(BaseModel):
    """The name of a rule of early stopping and its settings, side by side."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    rule: str

    def make(self) -> StopRule:
        return make_rule(self.rule, self.model_extra or {})


class FinalSpec(_Section):
    """How the winner is chosen once a stop rule holds; see :mod:`hpo_core.selection`."""

    top: int = Field(5, ge=1, le=1000, description="How many of the best configurations are trained again.")
    folds: int = Field(5, ge=2, le=100, description="In how many folds each is trained.")
    rule: Rule = Field("mean", description="How the winner is told from the folds.")
    prefer: dict[str, Literal["low", "high"]] = Field({}, description="Which values are simpler, by parameter.")

    def selection(self) -> Selection:
        return Selection(self.top, self.folds, self.rule, self.prefer)


class ChampionSpec(_Section):
    """With which registered model the winner is compared, and how; see :mod:`hpo_core.challenge`."""

    model: str = Field(description="Name of a model in MLflow's registry; created if there is none.")
    seeds: int = Field(5, ge=1, le=100, description="On how many seeds the winner is re-trained.")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="That a promotion is no luck of the seeds.")

    @field_validator("model")
    @classmethod
    def _registrable(cls, value: str) -> str:
        if not _is_model(value):
            raise ValueError(f"{_BAD_MODEL}; {_GOOD_MODEL}")
        return value


Event = Literal["finished", "failed", "new_incumbent"]
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class NotifySpec(_Section):
    """Who is told of what; see :mod:`flows.notify`."""

    on: list[Event] = Field(min_length=1, description="Of what to tell.")
    url: str = Field(max_length=2000, description="Where JSON is sent; ${NAME} stands for an environment variable.")

    @field_validator("url")
    @classmethod
    def _web(cls, value: str) -> str:
        if not value.startswith("${"):
            _web_address(value)
        return value

    def expanded(self) -> str:
        """The address, with the environment's variables in it.

        Raises:
            ValueError: One is not set, or what comes out is no address; the message does not quote it.
        """
        if missing := [name for name in _VARIABLE.findall(self.url) if name not in os.environ]:
            raise ValueError(f"the environment variable {missing[0]} is not set")
        return _web_address(_VARIABLE.sub(lambda match: os.environ[match[1]], self.url), quote=False)

    @property
    def stored(self) -> bool:
        """Whether it may stand in MLflow: only if what makes an address a secret is in the environment."""
        return bool(_VARIABLE.search(self.url)) and "@" not in self.url

    @property
    def label(self) -> str:
        """The receiver for people: the address without what may be a secret."""
        scheme, _, rest = self.url.partition("://")
        return self.url if self.stored else f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _web_address(text: str, *, quote: bool = True) -> str:
    """The text, if it is an address of http or https.

    Raises:
        ValueError: It is not.
    """
    if not re.fullmatch(r"https?://[^/\s]+(/[^\s]*)?", text):
        shown = f"{text!r} is" if quote else "it is"
        raise ValueError(f"{shown} no address of http or https; write it as https://host/path, or as ${{NAME}}")
    return text


def _entries(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class StrategySpec(BaseModel):
    """The name of a strategy and its settings, as they stand side by side in the file."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str

    def make(self, budget: int | None = None, fidelity: Fidelity | None = None) -> Strategy:
        """The strategy; one that has a setting ``budget`` gets the study's where the file does not give it."""
        settings = dict(self.model_extra or {})
        if budget is not None and self.name in STRATEGIES and has_setting(self.name, "budget"):
            settings.setdefault("budget", budget)
        return make_strategy(self.name, settings, fidelity)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(value: Any) -> Any:
    """``2GiB`` as a number of bytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{value!r} is no amount of memory; write it as 500MiB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


_ADDRESS = re.compile(r"(?P<scheme>[a-z]+://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")
_SCHEMES = {"dask": ("tcp://", "tls://", "ws://", "wss://", "ucx://"), "ray": ("ray://",)}


class RunnerSpec(_Section):
    """Where trials are trained: in processes of this machine, or on machines that an engine looks after."""

    type: Literal["process", "dask", "ray", "deployment"] = Field("process", description="The engine.")
    address: str = Field("", description="Of the Dask scheduler (tcp://host:8786) or the Ray head.", max_length=500)
    work_pool: str = Field("", description="The Prefect work pool of a deployment.", max_length=200)
    job_variables: dict[str, Any] = Field({}, description="Of a deployment: what Prefect sets in the work pool's job.")
    pull: list[dict[str, Any]] = Field([], description="Of a deployment: Prefect's steps that fetch the code.")

    @model_validator(mode="after")
    def _fits(self) -> RunnerSpec:
        schemes = _SCHEMES.get(self.type, ())
        found = _ADDRESS.fullmatch(self.address)
        if schemes and not self.address:
            raise ValueError(f"no address is given; add address: {schemes[0]}host:port, of what {self.type} listens on")
        if schemes and (found is None or (found["scheme"] or schemes[0]) not in schemes):
            raise ValueError(f"{self.address!r} is no address of {self.type}; write it as {schemes[0]}host:port")
        if not schemes and self.address:
            raise ValueError(f"the type {self.type} has no address; remove it, or choose dask or ray")
        if self.type == "deployment" and not self.work_pool:
            raise ValueError("no work_pool is given; name one of the Prefect server (prefect work-pool ls)")
        if self.type != "deployment" and (self.work_pool or self.job_variables or self.pull):
            raise ValueError("work_pool, job_variables and pull are of the type deployment; choose that or remove them")
        return self

    @property
    def elsewhere(self) -> bool:
        """Whether trials are trained by processes that the flow has not started itself."""
        return self.type != "process"


class Resources(_Section):
    """What one trial at a time may use; see :mod:`flows.resources`. What is not given is not limited."""

    gpus: int | None = Field(None, ge=0, le=1000, description="GPUs of a trial's own; 0 hides them all.")
    cpus: int | None = Field(None, ge=1, le=10_000, description="Threads for TensorFlow, BLAS and OpenMP.")
    memory: Annotated[int | None, BeforeValidator(_bytes)] = Field(
        None, ge=1, description="Memory of a trial; also its memory_limit where that is not given."
    )


class WarmStart(_Section):
    """Past runs to learn from: those of an experiment, those that a query finds, or both together."""

    experiment: str = Field("", description="Name of an MLflow experiment; all of them where absent.", max_length=500)
    query: str = Field("", description="A filter as in MLflow's search_runs.", max_length=5000)
    align: Literal["standardise", "rank", "none"] = Field(
        "standardise", description="How their losses compare with the study's: none if they are of the same data."
    )

    @model_validator(mode="after")
    def _some(self) -> WarmStart:
        if not self.experiment and not self.query:
            raise ValueError("neither experiment nor query is given; name one")
        return self

    @property
    def label(self) -> str:
        """The entry for people."""
        return " where ".join(part for part in (self.experiment, self.query) if part)


_COMPARISON = re.compile(r"[=<>]|\s(LIKE|ILIKE|IN)\s", re.IGNORECASE)


def _past(value: Any) -> Any:
    """A text that compares something is a query, any other one the name of an experiment."""
    if not isinstance(value, str):
        return value
    return {"query" if _COMPARISON.search(value) else "experiment": value}


def _strategy(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _rule(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


class StudySpec(_Section):
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
    objective: str = Field(description="module:function, importable from the working folder or the file's.")
    metric: str = Field(description="What the objective returns and MLflow shows.", min_length=1, max_length=250)
    direction: Literal["minimize", "maximize"] = Field(description="Whether less or more of the metric is better.")
    space: dict[str, Parameter] = Field(min_length=1, description="What is tuned: the parameters by name.")
    constraints: list[str] = Field(
        [], description="Expressions that hold for every configuration, such as min_units <= max_units."
    )
    strategy: Annotated[StrategySpec, BeforeValidator(_strategy)] = Field(
        StrategySpec(name="auto"), description="What chooses the configurations."
    )
    fidelity: FidelitySpec | None = Field(None, description="What trainings can be cut short in.")
    early_stop: Annotated[EarlyStopSpec | None, BeforeValidator(_rule)] = Field(
        None, description="The rule that stops running trials."
    )
    stop: StopRules
    data: str = Field("", description="module:function that returns the data; once they change, a dated study begins.")
    parallel: int = Field(1, ge=1, le=1000, description="Trials at a time.")
    retries: int = Field(0, ge=0, le=100, description="Further attempts at a trial that raised or whose process died.")
    trial_timeout: float | None = Field(None, gt=0, description="Seconds after which a trial is ended as failed.")
    memory_limit: Annotated[int | None, BeforeValidator(_bytes)] = Field(
        None, ge=1, description="Memory that a trial's process may hold, such as 2GiB; beyond it the trial is failed."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of every proposal, and of the seeds that trials get.")
    first: list[dict[str, Any]] = Field([], description="Configurations to try before the strategy's own.")
    warm_start: list[Annotated[WarmStart, BeforeValidator(_past)]] = Field(
        [], description="Past runs to learn from, fixed when the study is created."
    )
    callbacks: list[Annotated[dict[str, dict[str, Any]], BeforeValidator(checked_callback)]] = Field(
        [], description="Keras callbacks, each {name: settings}; the objective gets them as trial.callbacks."
    )
    final: FinalSpec | None = Field(None, description="How the winner is chosen; the incumbent where absent.")
    champion: ChampionSpec | None = Field(None, description="The registered model that the winner is held against.")

    notify: Annotated[list[NotifySpec], BeforeValidator(_entries)] = Field([], description="Who is told of what.")
    runner: RunnerSpec = Field(RunnerSpec(), description="Where trials are trained.")
    resources: Resources = Field(Resources(), description="What one trial at a time may use.")

    @field_validator("name", "experiment")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value and (not _NAME.fullmatch(value) or value.strip() != value):
            raise ValueError(_BAD_NAME)
        return value

    @field_validator("name")
    @classmethod
    def _some_name(cls, value: str) -> str:
        if not value:
            raise ValueError("the name is empty")
        return value

    @field_validator("objective", "data")
    @classmethod
    def _reference(cls, value: str, info: ValidationInfo) -> str:
        if info.field_name == "data" and not value:
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
        if self.final is not None:
            _check_order(self.final, space)
        # Settings that only the space can judge (a parameter's name) show at the first proposal, which costs nothing.
        try:
            strategy = self.strategy.make(fidelity=self.scale)
            getattr(strategy, "check", lambda space: None)(space)
            strategy.propose(space, History(), 1, seed=self.seed)
        except InputError:
            raise
        except ValueError as error:
            raise ValueError(f"strategy.{error}") from None
        return self

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
            if has_fidelity(self.strategy.name):
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
        return isinstance(self.strategy.make(fidelity=self.scale), Promoting)

    @property
    def needs_hypergradient(self) -> bool:
        """Whether the strategy goes nowhere unless trials log hypergradients."""
        return getattr(STRATEGIES[self.strategy.name], "needs_hypergradient", False)

    @cached_property
    def search_space(self) -> SearchSpace:
        return SearchSpace(self.space, tuple(self.constraints))

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
        """What stands in MLflow: all but addresses of receivers that may be secrets."""
        return json.dumps(self.stored())

    def stored(self) -> dict[str, Any]:
        """As plain data, as far as it is stored in MLflow."""
        data = self.model_dump(mode="json")
        data["notify"] = [entry.model_dump(mode="json") for entry in self.notify if entry.stored]
        return data

    def settled(self, stored: StudySpec, started: int, ended: bool) -> tuple[StudySpec, str]:
        """The specification with a total number of trials, where it says only how many more there are to be.

        A run of the study that was killed, or stopped before its total, is made up for first.

        Args:
            stored: What stands with the study; the total of its last run is in it.
            started: How many trials the study has.
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
        return self._with_total(total), why

    def _with_total(self, trials: int | None) -> StudySpec:
        return self.model_copy(update={"stop": self.stop.model_copy(update={"trials": trials, "more": False})})

    @property
    def begun(self) -> StudySpec:
        """The specification as a new study stores it: +20 trials are its first 20."""
        return self._with_total(self.stop.trials)

    def propose(self, history: History, n: int) -> list[Proposal]:
        """Up to ``n`` proposals: lost trials again, the rest of ``first``, then the strategy's. Pure, as those are.

        In a study with a fidelity, a strategy that knows nothing of it trains to the end. What ``first`` names begins
        at the lowest level where the strategy promotes, as everything does.
        """
        lowest, full = (None, None) if self.scale is None else (self.scale.levels[0], self.scale.levels[-1])
        proposals = self._again(history)[:n]
        taken = set(history.identities)
        for config in self.first:
            proposal = Proposal(
                self.search_space.validated(config),
                lowest if has_fidelity(self.strategy.name) else full,
                notes={"strategy": "first"},
            )
            if proposal.identity not in taken and len(proposals) < n:
                proposals.append(proposal)
                taken.add(proposal.identity)
        if len(proposals) < n:
            seen = history.with_pending(proposals)
            strategy = self.strategy.make(self.stop.trials, self.scale)
            proposals += strategy.propose(self.search_space, seen, n - len(proposals), seed=self.seed)
        return [each if each.fidelity is not None else replace(each, fidelity=full) for each in proposals]

    def _again(self, history: History) -> list[Proposal]:
        """The trials whose flow or process died, as far as retries remain and nobody has taken them up."""
        taken_up = {str(trial.notes.get("retry_of")) for trial in history}
        again: list[Proposal] = []
        for trial in history.failed:
            attempt = str(trial.notes.get("attempt", "0"))  # of a tag, and so of anybody's making
            retries_remain = re.fullmatch(r"[0-9]{1,3}", attempt) and int(attempt) < self.retries
            if trial.notes.get("lost") and retries_remain and str(trial.number) not in taken_up:
                notes: dict[str, Scalar] = {"strategy": "retry", "retry_of": trial.number, "attempt": int(attempt) + 1}
                notes |= {key: trial.notes[key] for key in ("bracket", "rung") if key in trial.notes}
                again.append(Proposal(trial.config, trial.fidelity, trial.parent, notes))
        return again

    def resumable(self, history: History) -> frozenset[int]:
        """The numbers of the trials whose checkpoints are needed: of all others they can go.

        Needed are those from which a trial goes on now, or is to do so once more because it was lost; those that may
        yet be promoted; and the incumbent's, which is what one would go on with by hand.
        """
        strategy = self.strategy.make(fidelity=self.scale)
        parents = {trial.parent for trial in history}
        candidates = strategy.promotable(history) if isinstance(strategy, Promoting) else frozenset()
        if has_fidelity(self.strategy.name):
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
        stop, best = self.stop, history.incumbent
        if stop.trials is not None and history.next_number >= stop.trials:
            return f"all {stop.trials} trials are started"
        if (
            stop.target is not None
            and best is not None
            and best.loss is not None
            and best.loss <= self.loss(stop.target)
        ):
            return f"{self.metric} reached the target {stop.target:g}"
        full = self.fidelity is None or (best is not None and best.extent >= self.fidelity.max)
        if stop.no_improvement is not None and full and history.since_improvement() >= stop.no_improvement:
            return f"{history.since_improvement()} trials without improvement"
        if stop.full_trainings is not None and self.scale is not None:
            spent = history.spent(self.scale)
            if spent >= stop.full_trainings - 1e-9:  # a sum of thirds
                return f"{spent:.4g} full trainings' worth is spent"
        if stop.minutes is not None and minutes >= stop.minutes:
            return f"{stop.minutes:g} minutes are over"
        return None


def _check_order(final: FinalSpec, space: SearchSpace) -> None:
    """See whether the parameters that are to say what is simple can.

    Raises:
        ValueError: One is unknown or has no order, or the rule does not ask for any.
    """
    if final.prefer and final.rule != "one_standard_error":
        raise ValueError("final.prefer: only the rule one_standard_error asks what is simple; choose it or remove this")
    for name in final.prefer:
        if name not in space.parameters:
            raise ValueError(f"final.prefer.{name}: the space has no such parameter; correct the name")
        if space.parameters[name].type == "choice":
            raise ValueError(f"final.prefer.{name}: a choice has no order; declare it as ordinal, simplest first")


def compare(stored: StudySpec, given: StudySpec) -> list[str]:
    """What a resumed study takes over from the given specification, one line a key.

    Raises:
        StudyConflict: Something differs that would make old and new trials incomparable.
    """
    old, new = stored.stored(), given.stored()
    changed = [key for key in old if not _same(old[key], new[key])]
    if forbidden := [key for key in changed if key not in MAY_CHANGE]:
        lines = [line for key in forbidden for line in _difference(key, old[key], new[key])]
        raise StudyConflict(
            f"study {given.name!r}",
            "the stored study differs from the given one:\n" + "\n".join(f"  {line}" for line in lines) + "\n",
            "trials of the two do not compare, so give the new one a name of its own (name: ...)",
        )
    return [line for key in changed for line in _difference(key, old[key], new[key])]


def _same(old: Any, new: Any) -> bool:
    """Equal in order and types too: to Python, 1 is True and the order of keys is nothing."""
    return json.dumps(old) == json.dumps(new)


def _difference(path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = [
            line
            for key in keys
            if not _same(old.get(key), new.get(key))
            for line in _difference(f"{path}.{key}", old.get(key), new.get(key))
        ]
        return lines or [f"{path}: the order differs: {', '.join(old)} -> {', '.join(new)}"]
    return [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]


class _Loader(yaml.SafeLoader):
    """YAML without its three traps: a key given twice, ``1e-4`` read as a string, and a key ``on`` read as true."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read, since a few of them can stand for gigabytes")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:bool":
                key_node.tag = "tag:yaml.org,2002:str"
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} stands twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_document(self) -> Any:
        """The document, in which ``stop: {trials: +20}`` keeps its sign: there, and only there, it says something."""
        node = super().compose_document()
        for stop in _values(node, "stop"):
            for trials in _values(stop, "trials"):
                if isinstance(trials, yaml.ScalarNode) and _MORE.fullmatch(trials.value):
                    trials.tag = "tag:yaml.org,2002:str"
        return node


def _values(node: Any, key: str) -> list[Any]:
    """What stands in a mapping under a key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [value for name, value in pairs if name.value == key]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Parse YAML safely: plain data only, no aliases, no key twice.

    Raises:
        yaml.YAMLError: The text is not such YAML.

    >>> parse_yaml("{low: 1e-4, name: x, on: [finished], log: true}")
    {'low': 0.0001, 'name': 'x', 'on': ['finished'], 'log': True}
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # whatever int(), date() and the like raise for what only looks like one
        raise yaml.YAMLError(f"{error}") from None


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """The validated study of a file.

    Args:
        path: The YAML file.
        overrides: ``key=value`` each; the key is a dotted path (``stop.trials``), the value is read as YAML.

    Raises:
        InputError: The file is absent, is not YAML, or says something that cannot be used.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(str(path), f"{path.stat().st_size} bytes", f"a study file has at most {MAX_FILE_BYTES}")
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is not a YAML file that can be read: {error}", "correct it there") from None
    if not isinstance(data, dict):
        raise InputError(
            str(path), f"holds {type(data).__name__}, not keys and values", "see the README for an example"
        )
    for override in overrides:
        _override(data, override)
    return study_from(data)


def override_spec(spec: StudySpec, overrides: Sequence[str]) -> StudySpec:
    """A stored study with keys overridden, as :func:`load_study` does for a file.

    Raises:
        InputError: An override is not ``key=value``, or says something that cannot be used.
    """
    data = spec.model_dump(mode="json")
    for override in overrides:
        _override(data, override)
    return study_from(data)


def _override(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise InputError("--set", f"{override!r} is not key=value", "write it as --set stop.minutes=5")
    try:
        value = text.strip() if path == "stop.trials" and _MORE.fullmatch(text.strip()) else parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError("--set", f"the value in {override!r} is not YAML ({error})", "quote it") from None
    *parents, last = path.split(".")
    for parent in parents:
        if parent == "strategy" and isinstance(data.get(parent), str):
            data[parent] = {"name": data[parent]}
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError("--set", f"{override!r}: {parent!r} has no keys of its own", "name the whole path")
        data = child
    data[last] = value


def study_from(data: Mapping[str, Any]) -> StudySpec:
    """The validated study of plain data.

    Raises:
        InputError: Each thing that cannot be used, a line each.
    """
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
    message = "\n".join(str(line) for line in lines)
    first = lines[0]
    first.args = (message,)
    raise first from None


_TYPES = ("float", "int", "choice", "ordinal", "boolean", "fixed")


def _explain(detail: Any) -> InputError:
    """One of pydantic's errors in the words of this project."""
    loc = [str(part) for part in detail["loc"]]
    if len(loc) > 2 and loc[0] == "space" and loc[2] in _TYPES:
        del loc[2]  # the discriminator's tag, which the file does not show
    field, kind, value = ".".join(loc), detail["type"], detail["input"]
    if kind == "extra_forbidden":
        known = _known_keys(detail["loc"])
        near = get_close_matches(loc[-1], known, 1)
        return InputError(
            field, "there is no such key", f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        )
    if kind == "missing":
        return InputError(field, "is missing", "add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = value.get("type") if isinstance(value, dict) else value
        return InputError(f"{field}.type", f"{found!r} is no type of parameter", f"choose one of {', '.join(_TYPES)}")
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        if not field:  # from a check over several keys, which says itself where
            field, _, message = message.partition(": ")
        problem, _, remedy = message.partition("; ")
        shown = f"{value!r}: " if isinstance(value, str | int | float) and repr(value) not in problem else ""
        return InputError(field, shown + problem, remedy)
    shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
    return InputError(field, f"{shown}: {message[0].lower()}{message[1:]}", "correct it")


def _known_keys(loc: Sequence[Any]) -> list[str]:
    """The keys that may stand where a superfluous one was found."""
    if loc[0] in _SECTIONS and len(loc) == 2:
        return [key for key in _SECTIONS[loc[0]].model_fields if key != "more"]  # which is written as a sign
    if loc[0] == "notify" and len(loc) == 3:
        return list(NotifySpec.model_fields)
    if loc[0] == "warm_start" and len(loc) == 3:
        return list(WarmStart.model_fields)
    if loc[0] == "space" and len(loc) == 4:
        return list(_PARAMETER_FIELDS[loc[2]])
    return list(StudySpec.model_fields)


_SECTIONS: dict[str, type[_Section]] = {
    "stop": StopRules,
    "fidelity": FidelitySpec,
    "final": FinalSpec,
    "champion": ChampionSpec,
    "runner": RunnerSpec,
    "resources": Resources,
}
_PARAMETER_FIELDS: dict[str, list[str]] = {
    "float": ["low", "high", "log", "reverse", "step", "when"],
    "int": ["low", "high", "log", "reverse", "step", "when"],
    "choice": ["choices", "when"],
    "ordinal": ["choices", "when"],
    "boolean": ["when"],
    "fixed": ["value", "when"],
}

__all__ = ["STRATEGIES", "Scalar", "StudySpec", "compare", "load_study", "parse_yaml", "study_from", "study_name"]
