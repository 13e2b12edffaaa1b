"""The objectives that people have: what goes to a worker process, and what is refused before anything is trained."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_flows.objectives.by_value import SCRIPT
from hpo_flows.objectives.reference import Objective
from tests.conftest import PATIENCE

ROOT = Path(__file__).parents[3]


def in_a_worker(folder: Path, script: str, objective: str = "objective", argument: str = "None") -> str:
    """What an objective of a script answers in a process that was given no more than a worker is."""
    (folder / "script.py").write_text(
        f"{script}\nimport pickle\nfrom hpo_flows.objectives.reference import Objective\n"
        f"given = Objective.of({objective})\n"
        "open('given', 'wb').write(pickle.dumps(given)); open('pickled', 'wb').write(given.pickled)\n"
    )
    load = f"import pickle; print(pickle.load(open('given', 'rb')).load()({argument}))"
    for command in (["script.py"], ["-c", load]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), SCRIPT: str(folder / "pickled")},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCRIPT_OF_ONE = """
import functools, multiprocessing, pickle, sys, typing
from dataclasses import dataclass

UserId = typing.NewType("UserId", int)

@dataclass
class Config:
    width: int

class Unnamed:
    pass

def doubled(config):
    return Config(2 * config.width)

def unnamed():
    return 5

@functools.lru_cache(maxsize=64)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

class Model:
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, trial):
        return self.factor * Config(4).width
    def score(self, trial):
        return self(trial) + 1

def annotated(trial, user: UserId = UserId(3)):
    return user

def two(factor, trial, offset=0):
    return factor * 10 + offset

def pickles(trial):
    return pickle.loads(pickle.dumps(Config(7))).width

def looks_up(trial):
    main = sys.modules["__main__"]
    return main.unnamed() + isinstance(main.Unnamed(), main.Unnamed)

def forks(trial):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(doubled, [Config(3)])[0].width

def spawns(trial):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(doubled, [Config(3)])[0].width + pool.apply(unnamed)
"""


@pytest.mark.parametrize(
    ("objective", "answer"),
    [
        ("functools.partial(two, 4, offset=2)", "42"),
        ("Model(2)", "8"),
        ("Model(2).score", "9"),
        ("functools.lru_cache(pickles)", "7"),
        ("lambda trial: fibonacci(20)", "6765"),
        ("annotated", "3"),
        ("pickles", "7"),
        ("looks_up", "6"),
        ("forks", "6"),
        ("spawns", "11"),
    ],
)
def test_names_of_a_script_resolve_in_a_worker(objective: str, answer: str, tmp_path: Path) -> None:
    assert in_a_worker(tmp_path, SCRIPT_OF_ONE, objective) == answer


def test_an_objective_of_a_notebook_has_no_file_and_needs_none(tmp_path: Path) -> None:
    script = f"__file__ = None; del __file__\n{SCRIPT_OF_ONE}"
    assert in_a_worker(tmp_path, script, "spawns") == "11"


def test_a_helper_that_holds_much_stays_behind(tmp_path: Path) -> None:
    script = "data = bytes(50_000_000)\ndef plot():\n    return data\ndef objective(trial):\n    return 1.0\n"
    assert in_a_worker(tmp_path, script) == "1.0"
    assert (tmp_path / "pickled").stat().st_size < 10_000


# -- what cannot go along -----------------------------------------------------------------------------------------

UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "a _thread.lock": threading.Lock,
    "a sqlite3.Connection": lambda: sqlite3.connect(":memory:"),
    "an _io.TextIOWrapper": lambda: open(os.devnull, "w"),
    "a generator": lambda: (i for i in range(3)),
    "a _thread.RLock": threading.RLock,
    "a logging.StreamHandler": logging.StreamHandler,
}


def in_main(**variables: Any) -> Callable[[str], Any]:
    """Names as they stand in a script."""
    module = types.ModuleType("__main__")
    vars(module).update(variables)

    def evaluated(code: str) -> Any:
        exec(code, vars(module))
        return vars(module)["objective"]

    return evaluated


@pytest.fixture(params=UNPICKLABLE)
def unpicklable(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    value = UNPICKLABLE[request.param]()
    yield request.param, value
    if hasattr(value, "close"):
        value.close()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def objective(trial): return db", "it uses the global 'db', {}"),
        ("objective = lambda trial: [db for _ in range(3)]", "it uses the global 'db', {}"),
        ("def helper(): return db\ndef objective(trial): return helper()", "it uses the global 'db', {}"),
        (
            "def make(con):\n  return lambda trial: con\nobjective = make(db)",
            "the enclosing function's 'con', {}",
        ),
        ("def objective(trial, con=db): return con", "it uses the default of 'con', {}"),
        ("setup = {'a': [db]}\ndef objective(trial): return setup", "it uses the global 'setup', whose ['a'][0] is {}"),
        ("import functools\nobjective = functools.partial(lambda trial, con: 1, con=db)", "the argument 'con', {}"),
        ("class Model:\n  def __call__(self, trial): return db\nobjective = Model()", "it uses the global 'db', {}"),
        ("class Model:\n  def __call__(self, t): 0\nobjective = Model()\nobjective.con = db", "its 'con' is {}"),
    ],
)
def test_what_cannot_go_to_a_worker_is_named(code: str, named: str, unpicklable: tuple[str, Any]) -> None:
    kind, value = unpicklable
    with pytest.raises(InputError) as caught:
        Objective.of(in_main(db=value)(code))
    remedy = "which cannot go to a worker process; open it inside the function"
    assert str(caught.value).endswith(f"{named.format(kind)}, {remedy}")


def test_what_cannot_be_rebuilt_in_a_worker_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("def objective(trial):\n    return 1.0\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import gone  # type: ignore[import-not-found]

        given = Objective.of(gone.objective)
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["gone"]
    lost = Objective(given.reference, (), given.pickled)
    with pytest.raises(InputError, match=r"'gone:objective' cannot be rebuilt .*No module named 'gone'"):
        lost.load()


# -- arity ----------------------------------------------------------------------------------------------------------


class Model:
    def __call__(self, trial: Any) -> float:
        return 1.0

    def score(self, trial: Any) -> float:
        return 1.0


class Two:
    def __call__(self, trial: Any, other: Any) -> float:
        return 1.0


def none() -> float:
    return 1.0


def two(trial: Any, other: Any) -> float:
    return 1.0


def keyword(trial: Any, *, width: int) -> float:
    return 1.0


def optional(trial: Any, width: int = 3, **others: Any) -> float:
    return 1.0


async def later(trial: Any) -> float:
    return 1.0


def stepwise(trial: Any) -> Iterator[float]:
    yield 1.0


model, pair, bound = Model(), Two(), Model().score
partial_of_two, partial_of_none = functools.partial(two, other=1), functools.partial(two)


@pytest.mark.parametrize("name", ["model", "Model", "bound"])
@pytest.mark.parametrize("how", ["object", "name"])
def test_what_can_be_called_with_a_trial(name: str, how: str) -> None:
    given = globals()[name] if name != "Model" else optional
    name = name if name != "Model" else "optional"
    objective = Objective.of(given) if how == "object" else Objective(f"{__name__}:{name}")
    if how == "object":
        assert all(part.isidentifier() for part in objective.reference.replace(":", ".").split("."))
        assert pickle.loads(pickle.dumps(objective)) == objective
    else:
        assert objective.load() is given


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", r"takes \(\).*too many positional"),
        ("two", r"takes \(trial, other\) .*missing a required argument: 'other'"),
        ("keyword", "missing a required argument: 'width'"),
        ("pair", "missing a required argument: 'other'"),
        ("partial_of_none", "missing a required argument: 'other'"),
        ("Model.score", "it is a method; give that of an object"),
        ("Model", "is a class; give an object of it"),
        ("later", "declared with async"),
        ("stepwise", "yields its results"),
        ("ROOT", r"(PosixPath\(.*\) is not a function; give|is not a function but PosixPath.*; name) a function"),
    ],
)
@pytest.mark.parametrize("how", ["object", "name"])
def test_what_cannot_be_called_with_a_trial_is_refused_at_once(name: str, problem: str, how: str) -> None:
    given: Any = sys.modules[__name__]
    for part in name.split("."):
        given = getattr(given, part)
    with pytest.raises(InputError, match=f"^objective: .*{problem}"):
        Objective.of(given) if how == "object" else Objective(f"{__name__}:{name}").load()


def test_a_keras_objective_is_an_objective() -> None:
    from hpo_flows.keras.training.objective import keras_objective

    objective = Objective.of(keras_objective(lambda hp: None, {"x": [0.0], "y": [0.0]}, epochs=1))
    assert objective.reference == "__main__:KerasObjective"  # no name to import it by
    build_model = in_main(db=threading.Lock())("def objective(hp): return db")
    with pytest.raises(InputError, match="the global 'db'"):
        Objective.of(keras_objective(build_model, {}, epochs=1))
