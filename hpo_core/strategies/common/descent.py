"""Computes descent steps along hypergradients, as pure functions of what past trials have logged.

A trial logs the derivative of the study's metric by a parameter as the metric ``hypergradient/<parameter>``. A *chain*
is a trial without a parent and all trials that continue it. No state is kept between steps: each proposal recomputes
Adam's moments or SGD's velocity from the gradients logged along the chain.

Notation: ``z``, shape ``(k,)``, are unconstrained coordinates of the ``k`` continuous parameters with a known
hypergradient, and ``g = dL/dz`` is the gradient of the loss in these coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.base.moments import LARGEST
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.configuration import Config, Scalar
from hpo_core.space.parameters import Float
from hpo_core.space.search_space import SearchSpace

WIDTH = 8.0
"""The length of a log-scaled range in unconstrained coordinates; the middle 96 % of a logit-scaled range match it."""

EDGE = 1e-3
"""The least distance to its bounds, as a share of the range, that a logit-scaled parameter is given; the logit of a
bound itself is infinite."""

LONGEST = 1.0
"""The longest move of a coordinate in one step: an eighth of a log-scaled range."""


# -- coordinates ------------------------------------------------------------------------------------------------------


def is_continuous(parameter: object) -> bool:
    """Whether a parameter can follow a gradient: a float without a step and with more than one value."""
    return isinstance(parameter, Float) and parameter.step is None and parameter.low < parameter.high


@dataclass(frozen=True)
class Coordinates:
    """Maps the continuous parameters of a configuration to unbounded real numbers and back.

    A log-scaled parameter becomes its logarithm (in units of an eighth of its range, clamped to its bounds). Any other
    parameter becomes the logit of its relative position between the bounds.

    Args:
        parameters: By name, in the order of the space.

    >>> rate = Coordinates({"rate": Float(low=1e-4, high=1.0, log=True), "x": Float(low=-1, high=1)})
    >>> z = rate.encode({"rate": 0.01, "x": 0.0, "kind": "other"})
    >>> z, rate.decode(z + [4.0, 0.0])
    (array([4., 0.]), {'rate': 1.0, 'x': 0.0})
    """

    parameters: Mapping[str, Float]

    @classmethod
    def of(cls, space: SearchSpace, trial: Trial) -> Coordinates:
        """The coordinates of a trial's active continuous parameters that have a hypergradient."""
        return cls(
            {
                name: cast(Float, parameter)
                for name, parameter in space.parameters.items()
                if is_continuous(parameter) and name in trial.config and name in trial.hypergradient
            }
        )

    def encode(self, config: Config) -> Array:
        """The point ``z`` of a configuration, shape ``(k,)``."""
        return np.array([_to_real(p, float(cast(float, config[name]))) for name, p in self.parameters.items()])

    def decode(self, z: Array) -> dict[str, Scalar]:
        """The values at a point, within their bounds and rounded like any other proposal."""
        pairs = zip(self.parameters.items(), z.tolist(), strict=True)
        return {name: p.decode(min(max(x / WIDTH, 0.0), 1.0) if p.log else _sigmoid(x)) for (name, p), x in pairs}

    def gradient(self, trial: Trial) -> Array:
        """``dL/dz`` from the trial's ``dL/dx``, shape ``(k,)``; 0 for a parameter without a hypergradient."""
        slopes = []
        for name, p in self.parameters.items():
            if name not in trial.config:
                slopes.append(0.0)
                continue
            x = float(cast(float, trial.config[name]))
            if p.log:
                mirrored = p.low + p.high - x if p.reverse else x
                scale = mirrored * math.log(p.high / p.low) / WIDTH
            else:
                u = _inside(p, x)
                scale = (p.high - p.low) * u * (1.0 - u)
            # Only sizes relative to the other coordinates matter, so a product that overflows may be clipped.
            slopes.append(min(max(trial.hypergradient.get(name, 0.0) * scale, -LARGEST), LARGEST))
        return np.array(slopes)


def _inside(p: Float, x: float) -> float:
    return min(max((x - p.low) / (p.high - p.low), EDGE), 1.0 - EDGE)


def _to_real(p: Float, x: float) -> float:
    if p.log:
        return WIDTH * p.encode(x)
    u = _inside(p, x)
    return math.log(u) - math.log1p(-u)


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z)) if z > -700.0 else 0.0  # exp() overflows above 709


# -- optimisers -------------------------------------------------------------------------------------------------------


class Descent(Protocol):
    """Chooses the direction of the next step, given the gradients along a chain."""

    def direction(self, gradients: Sequence[Array], since: int) -> Array:
        """The step, shape ``(k,)``, for a step size of 1: the next point is ``z - rate * direction``.

        Args:
            gradients: At the chain's points from its start to its tip, each of shape ``(k,)``, of any scale.
            since: The index from which momentum accumulates; a rejected step resets the momentum.
        """
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980): each coordinate moves by its mean gradient over its typical size.

    The first step is ``rate`` in every coordinate, whatever the scale of the loss.

    >>> Adam().direction([np.array([3.0, -0.001])], 0).round(3)
    array([ 1., -1.])
    """

    beta1: float = 0.9
    beta2: float = 0.99

    def direction(self, gradients: Sequence[Array], since: int) -> Array:
        unit = np.abs(np.array(gradients)).max()
        if unit == 0.0:
            return np.zeros_like(gradients[0])
        m, v = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
        for i, gradient in enumerate(gradients):
            g = gradient / unit  # so that the square neither overflows nor underflows
            m = self.beta1 * m + (1.0 - self.beta1) * g if i >= since else m
            v = self.beta2 * v + (1.0 - self.beta2) * g**2
        first = m / (1.0 - self.beta1 ** (len(gradients) - since))
        second = v / (1.0 - self.beta2 ** len(gradients))
        step: Array = first / (np.sqrt(second) + 1e-8)
        return step


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum, ``v <- mu v + g / |g_0|``: the first step has length ``rate`` (per coordinate, on average).

    Later steps scale with the gradient, relative to the gradient at the chain's start.

    >>> Momentum(0.5).direction([np.array([2.0, 0.0]), np.array([1.0, 0.0])], 0)
    array([1.41421356, 0.        ])
    """

    mu: float = 0.9

    def direction(self, gradients: Sequence[Array], since: int) -> Array:
        unit = np.abs(gradients[0]).max() or np.abs(np.array(gradients)).max()
        if unit == 0.0:
            return np.zeros_like(gradients[0])
        length = float(np.linalg.norm(gradients[0] / unit)) or 1.0
        velocity = np.zeros_like(gradients[0])
        for gradient in gradients[since:]:
            with np.errstate(over="ignore"):
                g = np.clip(gradient / unit / length, -1e6, 1e6)
            velocity = self.mu * velocity + g
        step: Array = velocity * math.sqrt(len(velocity))
        return step


# -- chains -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """When a step is accepted, and when a chain is given up.

    Args:
        memory: A step is accepted if its loss is below the highest of the last ``memory`` accepted ones (Grippo,
            Lampariello and Lucidi 1986, doi:10.1137/0723046). With 1 every step must lower the loss; the loss of a
            training is not smooth enough in its hyperparameters to allow that for long.
        patience: How many trials without a gain end a chain.
        gain: The decrease of the loss that counts as a gain, as a share of the loss.
        shrink: The factor on the step size after a step that was rejected or failed.
        grow: The factor on the step size after a step that lowered the loss.
        most: The upper limit of the step size, as a multiple of the initial one.
    """

    memory: int = 3
    patience: int = 6
    gain: float = 1e-3
    shrink: float = 0.4
    grow: float = 1.3
    most: float = 3.0


@dataclass(frozen=True)
class Chain:
    """A start and all trials that continue it.

    Attributes:
        trials: In order of number; the first is the start.
        path: The start and each accepted step; the last one is the tip. A rejected step cuts the path back to its
            best point.
        scale: The current factor on the step size.
        since: The index in the path from which momentum accumulates.
        idle: How many of its trials have ended since the last gain.
    """

    trials: tuple[Trial, ...]
    path: tuple[Trial, ...]
    scale: float = 1.0
    since: int = 0
    idle: int = 0

    @property
    def start(self) -> Trial:
        return self.trials[0]

    @property
    def tip(self) -> Trial:
        """The point from which the next step is taken."""
        return self.path[-1]

    @property
    def best(self) -> Trial:
        """The best trial on the path; at first the start."""
        return min(self.path, key=_loss)

    @property
    def busy(self) -> bool:
        """Whether one of its trials is running."""
        return any(trial.state is TrialState.RUNNING for trial in self.trials)

    @classmethod
    def follow(cls, trials: Sequence[Trial], rules: Rules) -> Chain:
        """The current state of a chain, from its trials in order of number."""
        start, *rest = trials
        if start.loss is None:
            return cls(tuple(trials), (start,))
        path, reference, scale, since, idle = [start], start.loss, 1.0, 0, 0
        for trial in rest:
            if trial.state is TrialState.RUNNING:
                continue
            if trial.loss is not None and trial.loss < max(map(_loss, path[-rules.memory :])):
                lower = trial.loss < _loss(path[-1])
                path.append(trial)
                scale = min(scale * rules.grow, rules.most) if lower else scale
                gained = reference - trial.loss > rules.gain * abs(reference)
                reference, idle = (trial.loss, 0) if gained else (reference, idle + 1)
            else:
                del path[path.index(min(path, key=_loss)) + 1 :]
                scale, since, idle = scale * rules.shrink, len(path) - 1, idle + 1
        return cls(tuple(trials), tuple(path), scale, since, idle)

    def alive(self, space: SearchSpace, rules: Rules) -> bool:
        """Whether the chain may continue, now or once its running trials have ended."""
        if self.start.state is TrialState.RUNNING:
            return True
        if self.idle >= rules.patience or self.tip.loss is None:
            return False
        return bool(Coordinates.of(space, self.tip).parameters)

    def step(self, space: SearchSpace, descent: Descent, rate: float) -> tuple[Coordinates, Array, Array]:
        """The coordinates, the tip's point in them, and the step to take from there, the latter two of shape ``(k,)``.

        Where an earlier point has no hypergradient for a parameter, its slope counts as 0.
        """
        coordinates = Coordinates.of(space, self.tip)
        gradients = [coordinates.gradient(trial) for trial in self.path]
        move = rate * self.scale * descent.direction(gradients, self.since)
        return coordinates, coordinates.encode(self.tip.config), -np.clip(move, -LONGEST, LONGEST)


def _loss(trial: Trial) -> float:
    return math.inf if trial.loss is None else trial.loss


def chains(history: History, rules: Rules) -> list[Chain]:
    """All chains of a history, in order of their starts.

    A trial whose parent was deleted counts as a start, and so does one that this strategy did not propose.
    """
    members: dict[int, list[Trial]] = {}
    for trial in history:
        parent = trial.parent
        if parent is not None and parent < trial.number and parent in members:
            members[parent].append(trial)
            members[trial.number] = members[parent]
        else:
            members[trial.number] = [trial]
    # Trials of one chain share one list, so its id() keeps each chain once, in order of its start.
    starts = {id(group): group for group in members.values()}
    return [Chain.follow(group, rules) for group in starts.values()]
