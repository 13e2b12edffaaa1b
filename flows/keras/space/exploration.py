"""Finds the search space of a ``build_model(hp)``, with all its branches, by calling it.

A build shows which parameters it asks for under the given values, and nothing about other values. So the function is
called with the defaults first. Then, starting from the build in which a parameter was first seen, it is called with
other values of that parameter; new parameters are treated in the same way. A parameter whose values decide which others
are asked for (a kind of network, a number of layers) is tried with all of its values. Finally parameters are changed
together, each pair of values once, or all combinations if they are few: that finds branches behind two conditions.

A build that raises is a failed one: it shows which parameters it asked for until then, which are tried as well, but not
which it would not have asked for. Only if every build raises, there is nothing to tune.

Declared conditions (``conditional_scope``, ``parent_name``) are adopted. Others are inferred, in the form ``parent has
one of these values``, joined by *and*: the smallest set of parents that separates all builds with a parameter from all
builds without it. An inferred condition is tested with builds that could refute it, and dropped if one does. Dropping
is safe: a parameter without a condition is merely tuned where it has no effect, but a wrong condition would keep it
from being tuned.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np

from hpo_core.base.errors import InputError
from hpo_core.space.configuration import Scalar, scalar_key
from hpo_core.space.parameters import Fixed, Float, Int
from hpo_core.space.search_space import SearchSpace
from hpo_flows.base.gpus import on_cpu
from hpo_flows.keras.errors import FatalError
from hpo_flows.keras.space.hyperparameter import HyperParameter, Parent
from hpo_flows.keras.space.hyperparameters import HyperParameters

log = logging.getLogger("hpo")

MAX_BUILDS = 400
"""The default limit of calls; a model takes 10 to 100 ms to build."""

FEW_VALUES = 8

FEW_NUMBERS = 4
"""Choices and numbers with at most this many values are tried with all of them; others with the ends, the middle and
the default."""

MANY_VALUES = 64
"""Parameters that decide which others exist are tried with all values up to this number. Beyond it, no condition names
them."""

MAX_COMBINED = 64
"""Up to this many combinations of values are tried one by one; if there are more, this many that cover pairs."""

MAX_FAILED = 40
"""As long as no build has succeeded, at most this many are tried: then the function itself is at fault."""

REFUTATIONS = 6
"""How many builds with random values must agree with an inferred condition, on either side of it."""

When = dict[str, list[Scalar]]


class NotRun(Exception):
    """Raised in place of a call that is left out: nothing is known of these values, and nothing is wrong with them."""


@dataclass(frozen=True)
class Build:
    """One call: the values of all parameters it asked for.

    Args:
        values: By name.
        mixed: Whether many of them were chosen at random.
        failed: Whether it raised, so that it may have asked for less than it would have.
    """

    values: Mapping[str, Scalar]
    mixed: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Args:
        space: The search space.
        declared: The declarations, in the order of the space.
        builds: The number of calls.
        failures: What the builds that raised did raise, each kind once.
    """

    space: SearchSpace
    declared: Sequence[HyperParameter]
    builds: int
    failures: Sequence[str] = ()

    @property
    def defaults(self) -> dict[str, Scalar]:
        """The defaults by name; for one that lies between two steps, the step below."""
        return {each.name: _default(each) for each in self.declared}


def _default(declared: HyperParameter) -> Scalar:
    try:
        declared.parameter.encode(declared.default)
    except ValueError:
        return declared.parameter.decode(declared.value_to_prob(declared.default))  # type: ignore[no-any-return]
    return declared.default  # type: ignore[no-any-return]


def explore(
    build: Callable[[HyperParameters], Any],
    *,
    preset: Sequence[HyperParameter] = (),
    tune_new: bool = True,
    max_builds: int = MAX_BUILDS,
) -> Exploration:
    """Find the search space of a function.

    Args:
        build: Called with a :class:`HyperParameters`; its return value is ignored.
        preset: Declarations that replace those of the function with the same name and conditions.
        tune_new: Whether parameters that are not in ``preset`` belong to the space; otherwise they keep their defaults.
        max_builds: The most calls allowed.

    Raises:
        InputError: No parameter is declared, branches lie beyond ``max_builds``, or two parameters share a name.
        Exception: What the first build raised, if all of them did.
    """
    found = _Explorer(build, preset, tune_new, max_builds).run()
    if found.failures:
        log.warning(
            "build_model raised for some values, and trials with such values will fail: %s", "; ".join(found.failures)
        )
    return found


class _Explorer:
    def __init__(
        self,
        build: Callable[[HyperParameters], Any],
        preset: Sequence[HyperParameter],
        tune_new: bool,
        max_builds: int,
    ) -> None:
        self._function, self._preset, self._tune_new, self._max_builds = build, tuple(preset), tune_new, max_builds
        self._declared: dict[str, list[HyperParameter]] = {}  # by name, in the order of the space
        for each in preset:
            self._declared.setdefault(each.name, []).append(each)
        self._builds: list[Build] = []
        self._errors: list[Exception] = []
        self._tried: set[str] = set()
        self._calls = 0
        self._rng = np.random.default_rng(0)  # its own, so that a function has the same space everywhere

    @on_cpu()
    def run(self) -> Exploration:
        conditions: dict[str, When] = {}
        while conditions.keys() != self._declared.keys() or not conditions:
            self._branch_out()
            while self._combine():
                self._branch_out()
            if self._errors and all(build.failed for build in self._builds):
                raise self._nothing_built()
            if not self._declared:
                raise InputError("build_model", "it declares no parameter", "call hp.Int, hp.Float, ... in it")
            # Builds that test a condition may find new parameters; then the search starts again.
            conditions = {name: self._condition(name) for name in list(self._declared)}
        names = [name for name in self._declared if self._tune_new or any(p.name == name for p in self._preset)]
        parameters: dict[str, Any] = {}
        for name in names:
            when = {parent: values for parent, values in conditions[name].items() if parent in parameters}
            parameters[name] = self._parameter(name).model_copy(update={"when": when})
        try:
            space = SearchSpace(parameters)
        except ValueError as error:
            raise InputError("build_model", str(error)) from None
        failures = tuple(dict.fromkeys(f"{type(error).__name__}: {error}" for error in self._errors))
        return Exploration(space, [self._declared[name][0] for name in names], self._calls, failures)

    def _nothing_built(self) -> Exception:
        error = self._errors[0]
        many = f"all of {self._calls} builds, each with other values" if self._calls > 1 else "the only build there is"
        error.add_note(f"hpo_flows: this is of the first build, with the defaults; {many}, raised")
        return error

    # -- builds -----------------------------------------------------------------------------------------------------

    def _build(self, values: Mapping[str, Scalar], mixed: bool = False) -> tuple[Build, list[str]] | None:
        """Call the function; returns what it asked for and the new names. None if these values were tried before."""
        key = repr(sorted((name, scalar_key(value)) for name, value in values.items()))
        if key in self._tried:
            return None
        self._tried.add(key)
        self._calls += 1
        hp = HyperParameters(values, self._preset)
        failed = not self._built(hp)
        build = Build({name: hp.values[name] for name in hp.asked}, mixed, failed)
        self._builds.append(build)
        new = self._merge(hp)
        return build, [name for name in new if name in build.values]

    def _built(self, hp: HyperParameters) -> bool:
        """Call the function; returns whether it came to its end.

        Raises:
            InputError: It declares what cannot be meant.
            FatalError: It says that nothing is to go on.
        """
        try:
            self._function(hp)
        except (InputError, FatalError):
            raise
        except NotRun:
            return False
        except Exception as error:  # a user's function may raise anything
            self._errors.append(error)
            if len(self._errors) >= MAX_FAILED and len(self._errors) == self._calls:
                raise self._nothing_built() from None
            return False
        return True

    def _merge(self, hp: HyperParameters) -> list[str]:
        """Adopt the declarations of a build, each new name after the one that preceded it."""
        new, before = [], None
        for each in hp.space:
            known = self._declared.get(each.name)
            if known is None:
                self._insert_behind(before, each)
                new.append(each.name)
            elif (each.kind, each.settings) != (known[0].kind, known[0].settings):
                raise _two_in_one(known, each)
            elif all(each.conditions != other.conditions for other in known):
                known.append(each)
            before = each.name
        return new

    def _insert_behind(self, before: str | None, declared: HyperParameter) -> None:
        items = list(self._declared.items())
        at = 0 if before is None else 1 + [name for name, _ in items].index(before)
        items.insert(at, (declared.name, [declared]))
        self._declared = dict(items)

    def _parameter(self, name: str) -> Any:
        return self._declared[name][0].parameter

    def _probes(self, name: str) -> list[Scalar]:
        parameter = self._parameter(name)
        if isinstance(parameter, Fixed):
            return []
        few = FEW_NUMBERS if isinstance(parameter, Int | Float) else FEW_VALUES
        return list(parameter.values(few) if parameter.size <= few else parameter.values(3))

    # -- the search for branches --------------------------------------------------------------------------------------

    def _branch_out(self) -> None:
        """Try each value of each parameter around the build in which it was first seen."""
        queue: deque[tuple[Mapping[str, Scalar], str | None]] = deque()  # a context, and the name to change in it
        seen = {name for build in self._builds for name in build.values}
        if self._builds:
            queue.extend(self._first_seen(name) for name in self._declared if name in seen)
        else:
            build, _ = self._build({}) or (Build({}), [])
            queue.extend((build.values, name) for name in build.values)
        while queue:
            context, name = queue.popleft()
            if name is None:
                continue
            decisive = False
            for value in self._probes(name):
                decisive |= self._try(context, name, value, queue)
            if decisive and len(self._probes(name)) < self._parameter(name).size <= MANY_VALUES:
                for value in self._parameter(name).values(MANY_VALUES):
                    self._try(context, name, value, queue)

    def _first_seen(self, name: str) -> tuple[Mapping[str, Scalar], str]:
        return next(build.values for build in self._builds if name in build.values), name

    def _try(self, context: Mapping[str, Scalar], name: str, value: Scalar, queue: deque[Any]) -> bool:
        """Build with one value changed; returns whether it asked for other parameters than in the context."""
        if scalar_key(context[name]) == scalar_key(value):
            return False
        if self._calls >= self._max_builds:
            raise InputError(
                "build_model",
                f"after {self._calls} builds there are {len(self._declared)} parameters and still branches to be seen",
                "raise max_builds, or declare conditions with hp.conditional_scope and let fewer values decide",
            )
        result = self._build({**context, name: value})
        if result is None:
            return False
        build, new = result
        queue.extend((build.values, each) for each in new)
        return not build.failed and build.values.keys() != context.keys()

    def _combine(self) -> bool:
        """Change parameters together until something new is found; returns whether it was."""
        for values in islice(self._combinations(), MAX_COMBINED):
            if self._calls >= self._max_builds:
                return False
            result = self._build(values, mixed=True)
            if result is not None and result[1]:
                return True
        return False

    def _combinations(self) -> Iterator[Mapping[str, Scalar]]:
        probes = {name: values for name in self._declared if len(values := self._probes(name)) > 1}
        if np.prod([float(len(values)) for values in probes.values()]) <= MAX_COMBINED:
            for picked in product(*probes.values()):
                yield dict(zip(probes, picked, strict=True))
            return
        uncovered = {
            (a, i, b, j)
            for n, a in enumerate(probes)
            for b in list(probes)[n + 1 :]
            for i in range(len(probes[a]))
            for j in range(len(probes[b]))
        }
        while uncovered:
            picks = self._cover(probes, uncovered)
            uncovered -= _pairs(picks)
            yield {name: probes[name][i] for name, i in picks.items()}

    def _cover(self, probes: Mapping[str, Sequence[Scalar]], uncovered: set[Any]) -> dict[str, int]:
        """Draw a few random combinations around an uncovered pair; returns the one that covers the most pairs."""
        a, i, b, j = min(uncovered)
        draws = [
            {name: int(self._rng.integers(len(values))) for name, values in probes.items()} | {a: i, b: j}
            for _ in range(10)
        ]
        return max(draws, key=lambda picks: len(_pairs(picks) & uncovered))

    # -- conditions -------------------------------------------------------------------------------------------------

    def _condition(self, name: str) -> When:
        """The declared condition, refined by what the builds show."""
        scopes = self._scopes(name)
        if any(each in self._declared[name] for each in self._preset):
            return scopes  # the declared scopes are complete
        for _ in range(3):
            when = self._inferred(name, scopes)
            if when is None:
                return scopes
            if not when or self._stands(name, scopes | when):
                return scopes | when
        return scopes

    def _scopes(self, name: str) -> When:
        """The conditional scopes of a parameter; empty if it is declared in several that have no common condition."""
        declared = [each.conditions for each in self._declared[name]]
        if len(declared) == 1:
            return _joined(declared[0])
        parents = {conditions[0].name if len(conditions) == 1 else "" for conditions in declared}
        if len(parents) > 1 or "" in parents:
            return {}
        values = {scalar_key(value): value for conditions in declared for value in conditions[0].values}
        return {parents.pop(): list(values.values())}

    def _inferred(self, name: str, scopes: When) -> When | None:
        """The condition that separates the builds with a parameter from those without; None if there is none.

        Builds that the parameter's scopes already explain are ignored.
        """
        complete = [build.values for build in self._builds if not build.failed]
        having = [values for values in complete if name in values]
        lacking = [values for values in complete if name not in values and _holds(scopes, values)]
        if not lacking or not having:
            return {}
        before = list(self._declared)[: list(self._declared).index(name)]
        candidates: When = {}
        for parent in reversed(before):  # the nearest first
            if (values := self._listed(parent, having)) is not None:
                candidates[parent] = values
        if not _tells_apart(candidates, lacking):
            return None
        # Prefer a parent's values to its mere presence, which only repeats the parent's own condition.
        for parent in sorted(candidates, key=lambda each: len(candidates[each]) == self._parameter(each).size):
            if _tells_apart({parent: candidates[parent]}, lacking):
                return {parent: candidates[parent]}
        for parent in reversed(list(candidates)):
            others = {other: values for other, values in candidates.items() if other != parent}
            if _tells_apart(others, lacking):
                candidates = others
        return {parent: candidates[parent] for parent in before if parent in candidates}

    def _listed(self, parent: str, having: Sequence[Mapping[str, Scalar]]) -> list[Scalar] | None:
        """The values of a parent in these builds, and those with which every build raised: what they lack is not known.

        None if the parent cannot be used in a condition.
        """
        parameter = self._parameter(parent)
        if parameter.size > MANY_VALUES or isinstance(parameter, Fixed):
            return None
        if any(parent not in values for values in having):
            return None
        present = {scalar_key(values[parent]) for values in having}
        with_it = [build for build in self._builds if parent in build.values]
        tried = {scalar_key(build.values[parent]) for build in with_it}
        present |= tried - {scalar_key(build.values[parent]) for build in with_it if not build.failed}
        options = parameter.values(MANY_VALUES)
        if not tried <= {scalar_key(option) for option in options} or len(tried) < len(options):
            return None  # a default between two steps, or a value that was never built
        return [option for option in options if scalar_key(option) in present]

    def _stands(self, name: str, when: When) -> bool:
        """Test a condition with builds that could refute it: each value of each parent, the rest at random.

        The existing builds agree, since the condition was inferred from them. Only what they leave open is built.
        """
        mixed = [build.values for build in self._builds if build.mixed and not build.failed]
        for parent in when:
            seen = {scalar_key(values[parent]) for values in mixed if parent in values}
            for value in self._parameter(parent).values(MANY_VALUES):
                if scalar_key(value) not in seen and not self._agrees(name, when, {parent: value}):
                    return False
        inside = sum(_holds(when, values) for values in mixed)
        for _ in range(REFUTATIONS - inside):
            fixed = {parent: values[self._rng.integers(len(values))] for parent, values in when.items()}
            if not self._agrees(name, when, fixed):
                return False
        return all(self._agrees(name, when, {}) for _ in range(REFUTATIONS - len(mixed) + inside))

    def _agrees(self, name: str, when: When, fixed: Mapping[str, Scalar]) -> bool:
        if self._calls >= self._max_builds:
            return False
        context = dict(next(build.values for build in self._builds if name in build.values))
        for other in self._declared:
            if options := self._probes(other):
                context[other] = options[self._rng.integers(len(options))]
        for parent, values in when.items():  # otherwise most builds would violate the condition in several parents
            if parent not in fixed and self._rng.random() < 0.75:
                context[parent] = values[self._rng.integers(len(values))]
        result = self._build({**context, **fixed}, mixed=True)
        if result is None or result[0].failed:
            return True
        return _holds(when, result[0].values) == (name in result[0].values)


def _two_in_one(known: Sequence[HyperParameter], other: HyperParameter) -> InputError:
    """The error for a name that is used for two parameters: one would get the values of the other."""
    if all(other.conditions != each.conditions for each in known):
        problem = f"{other.name!r} is declared with different settings under different conditions"
        return InputError("build_model", problem, "give one of them another name")
    problem = (
        f"{other.name!r} is declared with different settings in different builds: as {other.kind} "
        f"{dict(other.settings)}, and before as {known[0].kind} {dict(known[0].settings)}"
    )
    return InputError("build_model", problem, "give it fixed settings, or a name of its own in each branch")


def _pairs(picks: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
    items = list(picks.items())
    return {(a, i, b, j) for n, (a, i) in enumerate(items) for b, j in items[n + 1 :]}


def _joined(conditions: Sequence[Parent]) -> When:
    """Nested scopes as one condition; two scopes of one parent leave the values that both list."""
    when: When = {}
    for condition in conditions:
        before = when.get(condition.name)
        when[condition.name] = [
            v for v in condition.values if before is None or scalar_key(v) in {scalar_key(b) for b in before}
        ]
    return when


def _holds(when: When, values: Mapping[str, Scalar]) -> bool:
    return all(
        parent in values and scalar_key(values[parent]) in {scalar_key(value) for value in listed}
        for parent, listed in when.items()
    )


def _tells_apart(when: When, lacking: Sequence[Mapping[str, Scalar]]) -> bool:
    return bool(when) and not any(_holds(when, values) for values in lacking)
