"""Proposes by a sampler of Optuna, over MLflow's history instead of a storage of Optuna's own.

At each proposal a study of Optuna is built in memory from the history, and its sampler is asked. Most samplers
(:data:`STATELESS`) see the trials alone: the trials are added, and a sampler is made whose seed is the next trial's.
Others keep a state, CMA-ES in attributes of trials, genetic algorithms as the generation of each. It is found again by
a replay: the sampler is asked for each trial in turn, what it says is replaced by what was tried, and the outcome is
told. So the state is a function of the history as well, in whatever order trials ended.

Replays are kept in memory, as pickles by the trials that led to them; that saves time and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.errors import InputError
from hpo_core.base.extras import missing_extra, require
from hpo_core.base.seeding import trial_rng
from hpo_core.base.settings import STRICT, near_or_known
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState, fidelity_key
from hpo_core.space.configuration import Config, Scalar, identity, native
from hpo_core.space.parameters import Float, Int, Listed, Ordinal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.batch import one_by_one
from hpo_core.strategies.common.sampling import first_new, uniform_from

STATELESS = ("BruteForceSampler", "GPSampler", "RandomSampler", "TPESampler")
"""The samplers that depend on the trials of a study and their seed alone."""

GRID = "GridSampler"
"""The sampler that is at its end once it has named all that it was given."""

BLIND_TO_LIMITS = ("CmaEsSampler",)
"""The samplers that learn from losses, but not from constraints."""

OF_ONE_METRIC = ("CmaEsSampler",)
"""The samplers that know no Pareto front."""

NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "torch"}
"""The packages that samplers import only once they are asked, which may be after the first ten trials."""

BY_PARAMETER = ("fixed_params", "search_space", "x0")
"""The settings of samplers that name values by parameter."""

FIELD = "strategy.sampler"

ATTEMPTS = 10
"""How often a sampler is asked for a configuration that is feasible and new; then a uniform one is taken."""

LARGEST_LOSS = 1e100
"""Larger losses count as this one: samplers square them."""

_REPLAYS: OrderedDict[bytes, bytes] = OrderedDict()
MAX_REPLAYS = 16


def _named(value: str | dict[str, Any]) -> str | dict[str, Any]:
    name = value if isinstance(value, str) else value.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError("name a class of optuna.samplers, or write {name: CmaEsSampler, sigma0: 0.3}")
    return value


@dataclass(frozen=True, config=STRICT)
class Optuna(Strategy):
    """Asks a sampler of Optuna (``pip install "hpo-flows[optuna]"``).

    Args:
        sampler: A class of ``optuna.samplers``, such as TPESampler, CmaEsSampler, GPSampler or NSGAIISampler, with its
            settings: {name: CmaEsSampler, sigma0: 0.3}. A setting that is a sampler itself is written in the same way,
            and values of parameters as the study has them. The seed is the study's.

    Optuna sees numbers on their own scales, the values of a choice and the steps of a number as their positions, a
    trial that was stopped early or trained less far than others as pruned, and the limits of a study as constraints.
    What the sampler leaves open (CmaEsSampler: choices and conditional parameters), Optuna samples independently.
    """

    name: ClassVar[str] = "optuna"
    package: ClassVar[str] = "optuna"
    sampler: Annotated[str | dict[str, Any], AfterValidator(_named)] = "TPESampler"

    def check(self, space: SearchSpace) -> None:
        """Refuse a space with beliefs, and a sampler that cannot be made.

        Raises:
            InputError: It cannot be used.
        """
        for name in _names(self.sampler):
            if name in NEEDS:
                require(NEEDS[name], FIELD)
        if space.beliefs:
            raise InputError("prior", "Optuna's samplers do not use beliefs", "remove it, or choose bayesian or tpe")
        with _quiet(), self._explaining_errors():
            _ask(_study(_make(self.sampler, 0, space), 1), space)  # some refuse their settings only now

    def check_limits(self) -> None:
        """Refuse limits for a sampler that knows none.

        Raises:
            ValueError: It is one.
        """
        if blind := [name for name in _names(self.sampler) if name in BLIND_TO_LIMITS]:
            raise ValueError(f"sampler: {blind[0]!r} does not support limits; choose TPESampler or bayesian")

    def check_several(self) -> None:
        """Refuse several metrics for a sampler that knows one.

        Raises:
            ValueError: It is one.
        """
        if blind := [name for name in _names(self.sampler) if name in OF_ONE_METRIC]:
            raise ValueError(f"sampler: {blind[0]!r} supports one metric only; choose NSGAIISampler or bayesian")

    @property
    def _class(self) -> str:
        return self.sampler if isinstance(self.sampler, str) else str(self.sampler["name"])

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        def propose(seen: History) -> Proposal | None:
            config = self._next(space, seen, seed)
            return None if config is None else Proposal(config, notes={"sampler": self._class})

        with _quiet():
            return one_by_one(history, n, propose)

    def _next(self, space: SearchSpace, history: History, seed: int) -> dict[str, Scalar] | None:
        """The first configuration of the sampler's that is feasible and new, or a uniform one."""
        number = history.next_number
        with self._explaining_errors():
            for config in self._sampled(space, history, seed):
                if space.feasible(config) and identity(config) not in history.identities:
                    return config
        if self._class == GRID:
            return None
        points = self._held(space, uniform_from(space.dimensions, seed, number))
        found = first_new(space, points, history.identities, trial_rng(seed, number, stream=2))
        fixed = self._given("fixed_params")
        return found if found is None or all(fixed.get(name, value) == value for name, value in found.items()) else None

    @contextlib.contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        """Say of an error of Optuna's what is to be done.

        Raises:
            InputError: The sampler needs what is not installed, or cannot be used.
        """
        try:
            yield
        except ImportError as error:  # of what a sampler itself needs, such as GPSampler torch
            raise missing_extra(error, FIELD) or self._unusable(error) from error
        except InputError:
            raise
        except Exception as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> InputError:
        problem = f"{self._class!r} cannot be used here ({type(error).__name__}: {error})"
        return InputError(FIELD, problem, "install what it needs, correct its settings, or choose another one")

    def _sampled(self, space: SearchSpace, history: History, seed: int) -> Iterator[dict[str, Scalar]]:
        """What the sampler says, again and again."""
        rng = trial_rng(seed, history.next_number, stream=7)
        if self._class == GRID:  # whose first trials are the points of the grid, each once
            study = _study(_make(self.sampler, _seed(seed), space), 1)
            for _ in range(math.prod(map(len, self._given("search_space").values()))):
                yield _ask(study, space)
            return
        if self._class not in STATELESS:
            study = self._replayed(space, history, seed)
            for _ in range(ATTEMPTS):
                yield _ask(study, space)
            return
        for _ in range(ATTEMPTS):
            study = _study(_make(self.sampler, int(rng.integers(2**31)), space), _objectives(history))
            for trial in history:
                study.add_trial(_frozen(space, history, trial))
            yield _ask(study, space)

    def _given(self, key: str) -> Mapping[str, Any]:
        """A setting of the sampler that is by parameter; empty if it has none."""
        found = {} if isinstance(self.sampler, str) else self.sampler.get(key)
        return found if isinstance(found, Mapping) else {}

    def _held(self, space: SearchSpace, points: Iterator[Array]) -> Iterator[Array]:
        """Points of the unit cube with the values that the sampler holds fixed."""
        fixed = self._given("fixed_params")
        held = {i: space.parameters[name].encode(fixed[name]) for i, name in enumerate(space.free) if name in fixed}
        for point in points:
            point[list(held)] = list(held.values())
            yield point

    def _replayed(self, space: SearchSpace, history: History, seed: int) -> Any:
        """A study whose sampler has been asked for all trials so far, and told how they ended."""
        trials, objectives = list(history), _objectives(history)
        keys = _prefixes(repr((self.sampler, space.to_json(), seed, objectives)), trials, history.max_fidelity)
        known = next((k for k in range(len(trials), 0, -1) if keys[k] in _REPLAYS), 0)
        if known:
            _REPLAYS.move_to_end(keys[known])
            study = pickle.loads(_REPLAYS[keys[known]])  # noqa: S301  (made here)
        else:
            study = _study(_make(self.sampler, _seed(seed), space), objectives)
        settled = next((k for k, trial in enumerate(trials) if trial.state is TrialState.RUNNING), len(trials))
        for k in range(known, len(trials)):
            _again(study, space, history, trials[k])
            if k + 1 in (settled, len(trials)):  # what has ended stays as it is, so it is a prefix of all that follow
                _REPLAYS[keys[k + 1]] = pickle.dumps(study)
        while len(_REPLAYS) > MAX_REPLAYS:
            _REPLAYS.popitem(last=False)
        return study


def _prefixes(start: str, trials: Sequence[Trial], full: float | None) -> list[bytes]:
    """For each number of trials, a digest of all that a replay of them depends on."""
    digest, keys = hashlib.sha256(repr((start, full)).encode()), []
    for trial in trials:
        keys.append(digest.digest())
        digest.update(trial.fingerprint.to_bytes(8, "big"))
    return [*keys, digest.digest()]


def _objectives(history: History) -> int:
    """How many metrics the study has, as far as its trials say so."""
    return max((len(trial.losses) for trial in history.complete), default=0) or 1


def _study(sampler: Any, objectives: int) -> Any:
    import optuna

    directions = ["minimize"] * objectives
    return optuna.create_study(directions=directions, sampler=sampler, pruner=optuna.pruners.NopPruner())


def _seed(seed: int) -> int:
    """The seed of a sampler that is made once for all trials."""
    return int(trial_rng(seed, 0, stream=7).integers(2**31))


def _names(sampler: Any) -> list[str]:
    """The classes of a sampler and of those among its settings."""
    settings = sampler if isinstance(sampler, Mapping) else {"name": sampler}
    inner = (name for key, value in settings.items() if key.endswith("sampler") for name in _names(value))
    return [str(settings.get("name")), *inner]


def _make(sampler: Any, seed: int, space: SearchSpace) -> Any:
    """A sampler from its name and settings, for a space.

    Raises:
        InputError: Optuna has no sampler of this name, or it refuses its settings.
    """
    import optuna

    settings = dict(sampler) if isinstance(sampler, Mapping) else {"name": sampler}
    name = settings.pop("name", None)
    known = [each for each in optuna.samplers.__all__ if each.endswith("Sampler") and not each.startswith("Base")]
    if name not in known:
        raise InputError(FIELD, f"Optuna has no sampler {name!r}", near_or_known(str(name), known))
    cls = getattr(optuna.samplers, name)
    accepted = {key: each for key, each in inspect.signature(cls).parameters.items() if key != "seed"}
    for key, value in settings.items():
        field = f"{FIELD}.{key}"
        if key not in accepted:
            remedy = "it is the study's seed" if key == "seed" else near_or_known(key, [*accepted])
            raise InputError(field, f"{name!r} has no setting {key!r}", remedy)
        if str(accepted[key].annotation).startswith("Callable") and value is not None:
            raise InputError(field, f"{name!r} wants a function, which a study cannot store", "remove it")
        if key.endswith("sampler"):
            settings[key] = _make(value, seed, space)
        elif key in BY_PARAMETER and value is not None:
            settings[key] = _by_parameter(space, value, field)
    if "seed" in inspect.signature(cls).parameters:
        settings["seed"] = seed
    try:
        return cls(**settings)
    except ImportError as error:
        raise missing_extra(error, FIELD) or InputError(FIELD, f"{name!r}: {error}", "install it") from error
    except Exception as error:
        raise InputError(FIELD, f"{name!r} refuses its settings ({error})", "correct them") from error


def _by_parameter(space: SearchSpace, given: Any, field: str) -> dict[str, Any]:
    """Values by parameter, or lists of them, as Optuna has them; see :func:`_for_optuna`.

    Raises:
        InputError: A parameter or its value is not in the space.
    """
    if not isinstance(given, Mapping):
        raise InputError(field, f"{given!r} has no values by parameter", "write it as {learning_rate: 0.01}")
    found = {}
    for name, value in given.items():
        if name not in space.parameters:
            raise InputError(field, f"{name!r} is not a parameter", near_or_known(str(name), list(space.parameters)))
        parameter = space.parameters[name]
        try:
            values = [parameter.typed(native(each)) for each in (value if isinstance(value, list) else [value])]
        except (ValueError, OverflowError) as error:
            raise InputError(f"{field}.{name}", str(error), "correct it") from None
        if parameter.size > 1:  # else nothing is sampled
            converted = [_for_optuna(space, name, each) for each in values]
            found[name] = converted if isinstance(value, list) else converted[0]
    return found


def _ask(study: Any, space: SearchSpace) -> dict[str, Scalar]:
    """What the sampler says next, as a configuration."""
    trial = study.ask()
    config: dict[str, Scalar] = {}
    for name, parameter in space.parameters.items():
        if space.active(name, config):
            config[name] = parameter.decode(0.5) if parameter.size == 1 else _suggested(trial, name, parameter)
    return config


def _again(study: Any, space: SearchSpace, history: History, known: Trial) -> None:
    """Ask the sampler for a trial whose configuration and outcome are known."""
    import optuna

    study.enqueue_trial({name: _for_optuna(space, name, value) for name, value in _sampled_part(space, known.config)})
    trial = study.ask()
    _ = trial.relative_params  # asks the sampler, which keeps its state; with given values nothing else would
    for name, _ in _sampled_part(space, known.config):
        _suggested(trial, name, space.parameters[name])
    state, values, steps = _outcome(history, known)
    for step, loss in steps.items():
        trial.report(loss, step)
    for name, excess in known.excess.items():
        trial.set_constraint(name, min(excess, LARGEST_LOSS))
    if state is not optuna.trial.TrialState.RUNNING:
        with contextlib.suppress(RuntimeError):  # a sampler that has used up its space wants to stop the study
            study.tell(trial, values, state)


def _frozen(space: SearchSpace, history: History, trial: Trial) -> Any:
    """A trial as Optuna has it."""
    import optuna

    state, values, steps = _outcome(history, trial)
    part = _sampled_part(space, trial.config)
    frozen = optuna.trial.create_trial(
        state=state,
        values=values,
        params={name: _for_optuna(space, name, each) for name, each in part},
        distributions={name: _distribution(space.parameters[name]) for name, _ in part},
        intermediate_values=steps,
    )
    for name, excess in trial.excess.items():
        frozen.set_constraint(name, min(excess, LARGEST_LOSS))
    return frozen


def _outcome(history: History, trial: Trial) -> tuple[Any, list[float] | None, dict[int, float]]:
    """A trial's state, values, and intermediate values, of which there are none with several metrics."""
    from optuna.trial import TrialState as State

    if trial.loss is None:
        return (State.RUNNING if trial.state is TrialState.RUNNING else State.FAIL), None, {}
    losses = [min(max(loss, -LARGEST_LOSS), LARGEST_LOSS) for loss in trial.outcome]
    if trial.stopped_early or fidelity_key(trial.fidelity) < fidelity_key(history.max_fidelity):
        step = round(1000 * (trial.fidelity or 0))  # a whole number
        return State.PRUNED, None, {} if trial.losses else {step: losses[0]}
    return State.COMPLETE, losses, {}


def _sampled_part(space: SearchSpace, config: Config) -> list[tuple[str, Scalar]]:
    """The values that a sampler is asked for."""
    return [(name, value) for name, value in config.items() if space.parameters[name].size > 1]


def _by_position(parameter: Any) -> bool:
    """Whether Optuna sees positions instead of values: its steps are multiples, and its values must differ by ==."""
    return isinstance(parameter, Listed) or parameter.step is not None


def _distribution(parameter: Any) -> Any:
    """What Optuna samples a parameter from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if _by_position(parameter):
        count = int(parameter.size)
        ordered = not isinstance(parameter, Listed) or isinstance(parameter, Ordinal)
        return IntDistribution(0, count - 1) if ordered else CategoricalDistribution(range(count))
    if parameter.reverse:
        return FloatDistribution(0.0, 1.0)
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _suggested(trial: Any, name: str, parameter: Any) -> Scalar:
    """The value that Optuna samples for a parameter."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    distribution = _distribution(parameter)
    if isinstance(distribution, CategoricalDistribution):
        found = trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        found = trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    else:
        found = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if _by_position(parameter):
        value: Scalar = parameter.decode((found + 0.5) / parameter.size)
    elif parameter.reverse:
        value = parameter.decode(found)
    else:  # with the digits that a proposal has
        value = parameter.decode(parameter.encode(found)) if isinstance(parameter, Float) else found
    return value


def _for_optuna(space: SearchSpace, name: str, value: Scalar) -> Any:
    """A value as Optuna has it; the inverse of :func:`_suggested`."""
    parameter: Any = space.parameters[name]
    if _by_position(parameter):
        return min(int(parameter.encode(value) * parameter.size), int(parameter.size) - 1)
    return parameter.encode(value) if parameter.reverse else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines about studies and experimental features.

    Raises:
        ExtraMissing: Optuna is not installed.
    """
    require("optuna", "strategy.name")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna  # noqa: F401  (now, since its import sets the level of its logger)

        logger = logging.getLogger("optuna")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
