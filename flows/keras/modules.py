"""KerasTuner's modules: which name is found under which path, and where it is defined here.

``hpo_flows.keras.tuners``, ``.oracles``, ``.engine.hyperparameters`` and the like are not files. A finder makes them of
one table, each name loaded on first use. A second finder lets one name stand for another: ``keras.src.engine`` is
``keras.engine``, and, in scripts run by ``python -m hpo_flows.keras``, ``keras_tuner`` is ``hpo_flows.keras``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import require

PACKAGE = "hpo_flows.keras"

VERSION = "1.4.8"
"""The release of KerasTuner whose interface this is."""

STANDS_IN = "HPO_STANDS_IN_FOR_KERAS_TUNER"
"""The environment variable that tells workers that the script imports KerasTuner's name."""

KERAS_TUNER = ("keras_tuner", "kerastuner")


def _all(names: str, home: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), home)


_TUNERS = _all("BayesianOptimization GridSearch Hyperband RandomSearch", "tuner.tuners")
_TUNERS |= {"SklearnTuner": "tuner.sklearn_tuner", "Tuner": "tuner.tuner"}

_ORACLES = _all("BayesianOptimizationOracle GridSearchOracle HyperbandOracle RandomSearchOracle", "tuner.oracles")

_KINDS = "Boolean Choice Fixed Float HyperParameter Int deserialize serialize"

TOP: Mapping[str, str] = {
    **_TUNERS,
    "HyperModel": "space.hypermodel",
    "HyperParameters": "space.hyperparameters",
    "Objective": "space.objective",
    "Oracle": "tuner.oracle",
    "callbacks": "training.reporter",
    "keras_objective": "training.objective",
}
"""What ``hpo_flows.keras`` itself has: each name's home, below it."""

MODULES: Mapping[str, Mapping[str, str]] = {
    "tuners": _TUNERS,
    "tuners.bayesian": {each: home for each, home in (_TUNERS | _ORACLES).items() if each.startswith("Bayesian")},
    "tuners.gridsearch": {each: home for each, home in (_TUNERS | _ORACLES).items() if each.startswith("Grid")},
    "tuners.hyperband": {each: home for each, home in (_TUNERS | _ORACLES).items() if each.startswith("Hyperband")},
    "tuners.randomsearch": {each: home for each, home in (_TUNERS | _ORACLES).items() if each.startswith("Random")},
    "tuners.sklearn_tuner": {"SklearnTuner": "tuner.sklearn_tuner"},
    "oracles": _ORACLES,
    "engine": {},
    "engine.base_tuner": {"BaseTuner": "tuner.tuner"},
    "engine.hypermodel": {"HyperModel": "space.hypermodel"},
    "engine.hyperparameters": {**_all(_KINDS, "space.hyperparameter"), "HyperParameters": "space.hyperparameters"},
    "engine.metrics_tracking": {
        **_all("MetricHistory MetricObservation MetricsTracker", "tuner.metrics"),
        "infer_metric_direction": "space.objective",
    },
    "engine.objective": _all("DefaultObjective MultiObjective Objective create_objective", "space.objective"),
    "engine.oracle": {"Objective": "space.objective", "Oracle": "tuner.oracle"},
    "engine.trial": _all("Trial TrialStatus", "tuner.trial"),
    "engine.tuner": {"Tuner": "tuner.tuner"},
}
"""The modules that are not files: each name's home, below ``hpo_flows.keras``."""

SUBMODULES = ("applications", "engine", "errors", "oracles", "tuners")
"""What ``import hpo_flows.keras`` makes reachable as attributes, as ``import keras_tuner`` does."""

ABSENT: Mapping[str, str] = {
    "synchronized": "an oracle here is never called by two threads at once; leave the decorator out",
    "maybe_distribute": "give distribution_strategy to the tuner",
}
"""What KerasTuner has and this does not, and what to do instead."""


def lookup(module: str, homes: Mapping[str, str], submodules: Sequence[str] = ()) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose names have homes elsewhere.

    Args:
        module: The module's name.
        homes: Where each name is defined, below ``hpo_flows.keras``.
        submodules: Modules below it that are reachable without being imported.
    """

    def find(name: str) -> Any:
        if name in homes:
            require("keras", f"{module}.{name}")
            home = import_module(f"{PACKAGE}.{homes[name]}")
            if hasattr(home, name):
                return getattr(home, name)
        if name in submodules:
            return import_module(f"{module}.{name}")
        if name in ABSENT:
            raise InputError(f"{module}.{name}", "KerasTuner has it, hpo_flows.keras does not", ABSENT[name])
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


class _FromTable(MetaPathFinder, Loader):
    """Finds the modules of the table."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        below = name.removeprefix(f"{PACKAGE}.")
        if below == name or below not in MODULES:
            return None
        return ModuleSpec(name, self, is_package=bool(_inside(below)))

    def exec_module(self, module: ModuleType) -> None:
        below = module.__name__.removeprefix(f"{PACKAGE}.")
        module.__dict__["__all__"] = [*MODULES[below], *_inside(below)]
        module.__dict__["__getattr__"] = lookup(module.__name__, MODULES[below], _inside(below))


def _inside(below: str) -> list[str]:
    """The modules inside one of the table."""
    return [name.removeprefix(f"{below}.") for name in MODULES if name.startswith(f"{below}.")]


class _Alias(MetaPathFinder, Loader):
    """Finds modules under another name: the same module objects, so that a class is one class."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name and not name.startswith(f"{self.name}."):
            return None
        return ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        # importlib takes what stands in sys.modules after this.
        sys.modules[module.__name__] = import_module(PACKAGE + module.__name__.removeprefix(self.name))


def stand_in_for_keras_tuner() -> None:
    """Make ``import keras_tuner`` import this package, here and in the processes that this one starts."""
    os.environ[STANDS_IN] = "1"
    known = {each.name for each in sys.meta_path if isinstance(each, _Alias)}
    sys.meta_path[:0] = [_Alias(name) for name in KERAS_TUNER if name not in known]


def install() -> None:
    """Make the modules importable; called once, by the package."""
    sys.meta_path.append(_FromTable())
    sys.meta_path.insert(0, _Alias(f"{PACKAGE}.src"))
    if os.environ.get(STANDS_IN):
        stand_in_for_keras_tuner()
