"""Descent along hypergradients, as functions of what past trials have logged.

A trial logs the derivative of the study's metric by a parameter as the metric ``hypergradient/<parameter>``. A *chain*
is a trial without a parent and all that go on from it. Nothing is kept between two steps: the moments of Adam and the
velocity of SGD are sums over the gradients that stand in the chain, and are formed anew for each proposal.

Notation: ``z``, shape ``(k,)``, are unconstrained coordinates of the ``k`` continuous parameters that a hypergradient
is known of, and ``g = dL/dz`` the gradient of the loss in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from hpo_core.configuration import Config, Scalar
from hpo_core.history import History
from hpo_core.space import Array, Float, SearchSpace
from hpo_core.trial import Trial, TrialState

WIDTH = 8.0
"""The length of a log-scaled range in unconstrained coordinates: that of the middle 96 % of a logit-scaled one."""

EDGE = 1e-3
"""How near to its bounds, as a share of the range, a logit-scaled parameter is taken to be at the most; the logit of a
bound is infinite."""

LONGEST = 1.0
"""No coordinate moves further than this in one step, an eighth of a log-scaled range."""


# -- coordinates ------------------------------------------------------------------------------------------------------


def is_continuous(parameter: object) -> bool:
    """Whether a parameter can follow a gradient: a float that has no step, and more than one value."""
    return isinstance(parameter, Float) and parameter.step is None and parameter.low < parameter.high


@dataclass(frozen=True)
class Coordinates:
    """The continuous parameters of a configuration as real numbers without bounds.

    A log-scaled parameter becomes its logarithm (in units of an eighth of its range, and held between its bounds), any
    other the logit of its place between the bounds.

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
        """Of the active continuous parameters of a trial that have a hypergradient."""
        return cls(
            {
                name: cast(Float, parameter)
                for name, parameter in space.parameters.items()
                if is_continuous(parameter) and name in trial.config and name in trial.hypergradient
            }
        )

    def encode(self, config: Config) -> Array:
        """Shape ``(k,)``."""
        return np.array([_to_real(p, float(cast(float, config[name]))) for name, p in self.parameters.items()])

    def decode(self, z: Array) -> dict[str, Scalar]:
        """The values at a point, within their bounds and as any other proposal rounds them."""
        pairs = zip(self.parameters.items(), z.tolist(), strict=True)
        return {name: p.decode(min(max(x / WIDTH, 0.0), 1.0) if p.log else _sigmoid(x)) for (name, p), x in pairs}

    def gradient(self, trial: Trial) -> Array:
        """``dL/dz`` from the trial's ``dL/dx``, shape ``(k,)``; 0 where a trial says nothing of a parameter."""
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
            # Its size is told by what the others are, so where a product overflows the largest number will do.
            slopes.append(min(max(trial.hypergradient.get(name, 0.0) * scale, -1e300), 1e300))
        return np.array(slopes)


def _inside(p: Float, x: float) -> float:
    return min(max((x - p.low) / (p.high - p.low), EDGE), 1.0 - EDGE)


def _to_real(p: Float, x: float) -> float:
    if p.log:
        return WIDTH * p.encode(x)
    u = _inside(p, x)
    return math.log(u) - math.log1p(-u)


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z)) if z > -700.0 else 0.0


# -- optimisers -------------------------------------------------------------------------------------------------------


class Descent(Protocol):
    """Which way to go, given the gradients along a chain."""

    def direction(self, gradients: Sequence[Array], since: int) -> Array:
        """The step, shape ``(k,)``, for a step size of 1: the next point is ``z - rate * direction``.

        Args:
            gradients: At the chain's points from its start to where it stands, each of shape ``(k,)``, of any scale.
            since: From which of them on momentum has been gathered; a step that had to be taken back ends it.
        """
        ...


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba (2015), arXiv:1412.6980: each coordinate moves by its mean gradient over its typical size.

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
            g = gradient / unit  # so that its square neither overflows nor vanishes
            m = self.beta1 * m + (1.0 - self.beta1) * g if i >= since else m
            v = self.beta2 * v + (1.0 - self.beta2) * g**2
        first = m / (1.0 - self.beta1 ** (len(gradients) - since))
        second = v / (1.0 - self.beta2 ** len(gradients))
        step: Array = first / (np.sqrt(second) + 1e-8)
        return step


@dataclass(frozen=True)
class Momentum:
    """SGD with momentum, ``v <- mu v + g / |g_0|``: the first step has the length ``rate`` (a coordinate, on average).

    Later ones shrink as the gradient does, in proportion to that at the chain's start.

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
    """When a step counts, and when a chain is given up.

    Args:
        memory: A step counts if its loss is below the highest of the last so many that counted; Grippo, Lampariello and
            Lucidi (1986), doi:10.1137/0723046. With 1 every step has to lower the loss, which that of a training, never
            quite smooth in its hyperparameters, does not allow for long.
        patience: After so many trials without a gain, a chain ends.
        gain: What counts as one, as a share of the loss.
        shrink: What the step size is multiplied by when a step did not count, or failed.
        grow: And when it lowered the loss.
        most: The step size never grows above so many times what it was at first.
    """

    memory: int = 3
    patience: int = 6
    gain: float = 1e-3
    shrink: float = 0.4
    grow: float = 1.3
    most: float = 3.0


@dataclass(frozen=True)
class Chain:
    """A start and all that goes on from it.

    Attributes:
        trials: In order of number; the first is the start.
        path: The start, and each step that counted; the last is where the chain stands. A step that does not count
            takes it back to its best.
        scale: What the step size is multiplied by now.
        since: From which point of the path on momentum has been gathered.
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
        """Where the chain stands."""
        return self.path[-1]

    @property
    def best(self) -> Trial:
        """Its best trial; the start while that is all there is."""
        return min(self.path, key=_loss)

    @property
    def busy(self) -> bool:
        """Whether one of its trials runs."""
        return any(trial.state is TrialState.RUNNING for trial in self.trials)

    @classmethod
    def follow(cls, trials: Sequence[Trial], rules: Rules) -> Chain:
        """What the trials of a chain, in order of number, have come to."""
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
        """Whether it may go on, now or once what runs of it has ended."""
        if self.start.state is TrialState.RUNNING:
            return True
        if self.idle >= rules.patience or self.tip.loss is None:
            return False
        return bool(Coordinates.of(space, self.tip).parameters)

    def step(self, space: SearchSpace, descent: Descent, rate: float) -> tuple[Coordinates, Array, Array]:
        """Its coordinates, where it stands in them, and the step to take from there, each of shape ``(k,)``.

        Parameters that some earlier point had no hypergradient of count as flat there.
        """
        coordinates = Coordinates.of(space, self.tip)
        gradients = [coordinates.gradient(trial) for trial in self.path]
        move = rate * self.scale * descent.direction(gradients, self.since)
        return coordinates, coordinates.encode(self.tip.config), -np.clip(move, -LONGEST, LONGEST)


def _loss(trial: Trial) -> float:
    return math.inf if trial.loss is None else trial.loss


def chains(history: History, rules: Rules) -> list[Chain]:
    """All chains of a history, in order of their starts.

    A trial whose parent is not there (it was deleted) is a start, and so is one that somebody else made.
    """
    members: dict[int, list[Trial]] = {}
    for trial in history:
        parent = trial.parent
        if parent is not None and parent < trial.number and parent in members:
            members[parent].append(trial)
            members[trial.number] = members[parent]
        else:
            members[trial.number] = [trial]
    starts = {id(group): group for group in members.values()}
    return [Chain.follow(group, rules) for group in starts.values()]
