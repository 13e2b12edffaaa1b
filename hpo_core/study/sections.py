"""Defines and validates the sections of a study file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from hpo_core.base.explaining import Explaining
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.limits import Limit
from hpo_core.selection.early_stopping import StopRule, make_rule
from hpo_core.selection.final_choice import Pick, Rule, Selection
from hpo_core.selection.repeats import SHARE, TOP, Repeats
from hpo_core.space.belief import Belief, Confidence
from hpo_core.space.configuration import plain
from hpo_core.space.parameters import Parameter
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.make import make_strategy, names_in
from hpo_core.study.names import BAD_MODEL, GOOD_MODEL, is_model_name

READING = "reading"
"""What a validation may be told as its context: that the study is only read. Then nothing of the user's is imported,
and what earlier versions took is taken."""


class Section(BaseModel, metaclass=Explaining):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return plain(data)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        numbers = {int, float} & {wanted, *get_args(wanted)}
        if isinstance(value, bool) and numbers:  # pydantic would take True for 1
            raise PydanticKnownError("float_type" if float in numbers else "int_type")
        return value


def _target(value: Any) -> Any:
    """
    Raises:
        ValueError: It is neither a finite number nor a mapping to such.
    """
    if isinstance(value, Mapping):
        return {name: _target(each) for name, each in value.items()}
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number is not None and (isinstance(value, bool) or not math.isfinite(number)):
        raise ValueError(f"{value!r} is not a finite number; correct it")
    return number


class StopRules(Section):
    """When to start no further trial; running trials are awaited. The first rule that holds ends the study."""

    trials: int | None = Field(
        None,
        ge=1,
        description="Trials of the study in all, failed ones included; +20 is 20 more a run.",
    )
    more: bool = Field(False, description="Whether trials counts from what the study has; written as trials: +20.")
    minutes: float | None = Field(None, gt=0, description="Minutes since this run of the study started.")
    target: Annotated[float | dict[str, float] | None, BeforeValidator(_target)] = Field(
        None, description="Value of the metric that is good enough; with several metrics, values by name."
    )
    no_improvement: int | None = Field(None, ge=1, description="Complete trials since the incumbent was found.")
    full_trainings: float | None = Field(None, gt=0, description="Total fidelity spent, in units of fidelity.max.")
    cost: float | None = Field(None, gt=0, description="Sum of the costs of all trials, in what the key cost counts.")
    worth: float | None = Field(
        None, gt=0, description="Gain of the metric per hour of cost that is still worth it; per unit of another cost."
    )
    same_error: bool = Field(
        True, description="Whether the study ends once its first 3 trials, or parallel, all failed with the same error."
    )

    @model_validator(mode="before")
    @classmethod
    def _signed(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(text := data.get("trials"), str) and MORE.fullmatch(text.strip()):
            return {**data, "trials": int(text), "more": True}
        return data

    @model_validator(mode="after")
    def _any(self, info: ValidationInfo) -> StopRules:
        if self.more and self.trials is None:
            raise ValueError("it says more, but not how many trials; write trials: +20, say")
        if not (info.context or {}).get(READING) and self.endless:
            *some, last = self._rules()
            raise ValueError(f"no rule is given, so the study would never end; give {', '.join(some)} or {last}")
        return self

    @classmethod
    def _rules(cls) -> list[str]:
        return [name for name in cls.model_fields if name not in ("more", "same_error")]

    @property
    def endless(self) -> bool:
        """Whether no rule is given, so that the study would never end."""
        return all(getattr(self, name) in (None, {}) for name in self._rules())


MORE = re.compile(r"\+[0-9]{1,9}")
"""A number of trials that counts from what the study has. To YAML the sign would be nothing."""


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is not a finite number above 0; correct it")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
"""A whole number stays one: whether a fidelity is counted in whole steps shows in how it is written."""


class FidelitySpec(Section):
    """What trainings can be cut short in: how much a full one gets, and how little still says something."""

    name: str = Field(min_length=1, max_length=100, description="epochs, a share of the training set, trees, ...")
    min: Number = Field(description="The least that tells something.")
    max: Number = Field(description="A full training.")
    eta: float = Field(3, ge=2, description="The factor between two rungs.")

    def make(self) -> Fidelity:
        return Fidelity(self.name, self.min, self.max, self.eta)


class BeliefSpec(Section):
    """What a user believes about good values of a parameter; see :mod:`hpo_core.space.belief`."""

    around: Any = Field(description="A value that is likely to be good.")
    confidence: Confidence = Field("medium", description="How sure you are.")

    def make(self) -> Belief:
        return Belief(self.around, self.confidence)


class Edition(Section):
    """An earlier space of a study whose space was changed; see :mod:`hpo_core.study.editions`."""

    id: str = Field("", description="Which edition it is; the first one has none.")
    until: int | None = Field(
        None, ge=1, description="Of earlier versions: the number of the first trial in the space that followed."
    )
    space: dict[str, Parameter] = Field(description="The parameters of this edition.")
    added: dict[str, Any] = Field({}, description="Values that earlier trials count as having had from then on.")
    constraints: list[str] | None = Field(None, description="Its constraints; today's where absent.")
    prior: dict[str, BeliefSpec] | None = Field(None, description="Its beliefs; today's where absent.")
    first: list[dict[str, Any]] | None = Field(None, description="Its configurations to try first.")


class EarlyStopSpec(BaseModel):
    """The name of a rule of early stopping and its settings, side by side."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    rule: str

    def make(self) -> StopRule:
        return make_rule(self.rule, self.model_extra or {})


class FinalSpec(Section):
    """How the winner is chosen once a stop rule holds; see :mod:`hpo_core.selection.final_choice`."""

    top: int = Field(5, ge=1, le=1000, description="How many of the best configurations, or of the Pareto front.")
    folds: int = Field(5, ge=2, le=100, description="In how many folds each is trained.")
    rule: Rule = Field("mean", description="How the winner is told from the folds.")
    prefer: dict[str, Literal["low", "high"]] = Field({}, description="Which values are simpler, by parameter.")

    def selection(self, pick: Pick | None = None, limits: Sequence[Limit] = ()) -> Selection:
        return Selection(self.top, self.folds, self.rule, self.prefer, pick, limits)

    def check(self, space: SearchSpace) -> None:
        """See whether the parameters that are to say what is simple can.

        Raises:
            ValueError: One is unknown or has no order, or the rule does not ask for any.
        """
        if self.prefer and self.rule != "one_standard_error":
            problem = "only the rule one_standard_error asks what is simple; choose it or remove this"
            raise ValueError(f"final.prefer: {problem}")
        for name in self.prefer:
            if name not in space.parameters:
                raise ValueError(f"final.prefer.{name}: unknown parameter; correct the name")
            if space.parameters[name].type == "choice":
                raise ValueError(f"final.prefer.{name}: a choice has no order; declare it as ordinal, simplest first")


class RepeatsSpec(Section):
    """How much of the study trains the best configurations again; see :mod:`hpo_core.selection.repeats`."""

    share: float | None = Field(
        None, gt=0, le=0.5, description="The share of the trials that does so; by default more in a short study."
    )
    top: int = Field(TOP, ge=1, le=1000, description="How many of the best configurations are trained again.")

    def make(self) -> Repeats:
        return Repeats(SHARE if self.share is None else self.share, self.top, auto=self.share is None)


class ChampionSpec(Section):
    """With which registered model the winner is compared, and how; see :mod:`hpo_core.champion.challenge`."""

    model: str = Field(description="Name of a model in MLflow's registry; created if there is none.")
    seeds: int = Field(5, ge=1, le=100, description="On how many seeds the winner is re-trained.")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="That a promotion is not the luck of the seeds.")

    @field_validator("model")
    @classmethod
    def _registrable(cls, value: str) -> str:
        if not is_model_name(value):
            raise ValueError(f"{BAD_MODEL}; {GOOD_MODEL}")
        return value


Event = Literal["finished", "failed", "new_incumbent"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class NotifySpec(Section):
    """Who is told of what; see :mod:`hpo_flows.reports.notify`."""

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
            ValueError: One is not set, or what comes out is not an address; the message does not quote it.
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
        raise ValueError(f"{shown} not an address of http or https; write it as https://host/path, or as ${{NAME}}")
    return text


def as_texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def as_entries(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class StrategySpec(BaseModel):
    """The name of a strategy and its settings, as they stand side by side in the file."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str

    @property
    def names(self) -> dict[str, str]:
        """The names of the strategy and of those that it is made of, by where the study file has them."""
        return names_in(self.name, self.model_extra or {})

    def make(self, budget: int | None = None, fidelity: Fidelity | None = None) -> Strategy:
        return make_strategy(self.name, self.model_extra, fidelity, budget=budget)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def as_bytes(value: Any) -> Any:
    """``2GiB`` as a number of bytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{value!r} is not an amount of memory; write it as 500MiB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


_ADDRESS = re.compile(r"(?P<scheme>[a-z]+://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")

_SCHEMES = {"dask": ("tcp://", "tls://", "ws://", "wss://", "ucx://"), "ray": ("ray://",)}


class RunnerSpec(Section):
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
            raise ValueError(f"{self.address!r} is not an address of {self.type}; write it as {schemes[0]}host:port")
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


def _gpus(value: Any) -> Any:
    """
    Raises:
        ValueError: It is neither a number of GPUs, nor a share of one, nor ``auto``.
    """
    if value is None or value == "auto":
        return value
    if isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1000:
        if value < 1 or value == int(value):
            return int(value) if value == int(value) else value
    raise ValueError(f"{value!r} is neither a whole number of GPUs, nor a share of one such as 0.25, nor auto")


class Resources(Section):
    """What one trial at a time may use; see :mod:`hpo_flows.workers.resources`. What is not given is not limited."""

    gpus: Annotated[int | float | Literal["auto"] | None, BeforeValidator(_gpus)] = Field(
        None, description="GPUs of a trial; 0.25: a quarter of one; auto: all, divided; 0 hides them."
    )
    cpus: int | None = Field(None, ge=1, le=10_000, description="Threads of TensorFlow, BLAS, OpenMP and joblib.")
    memory: Annotated[int | None, BeforeValidator(as_bytes)] = Field(
        None, ge=1, description="Memory of a trial; also its memory_limit where that is not given."
    )
    log: bool = Field(False, description="Log processor, memory and GPUs of each trial as MLflow's system metrics.")


class WarmStart(Section):
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


def check_past(value: Any) -> Any:
    """A text that compares something is a query, any other one the name of an experiment."""
    if not isinstance(value, str):
        return value
    return {"query" if _COMPARISON.search(value) else "experiment": value}


def check_strategy(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def check_rule(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


def check_repeats(value: Any) -> Any:
    """``auto`` and ``off`` as what they stand for."""
    if isinstance(value, Mapping | RepeatsSpec):
        return value
    if value not in ("auto", "off"):
        raise ValueError(f"{value!r} is neither auto nor off; give one of them, or {{share: {SHARE}, top: {TOP}}}")
    return {} if value == "auto" else None
