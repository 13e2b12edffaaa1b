"""Objectives that tests tune: quick ones, slow ones, and every way to misbehave."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import gives_hypergradient


def noisy(trial: TrialContext) -> dict[str, float]:
    """A parabola, with noise from the trial's own seed."""
    return {"loss": quick(trial) + random.Random(trial.seed).gauss(0, 0.1)}


def noisy_model(trial: TrialContext) -> dict[str, float]:
    """As ``noisy``, with a model that predicts the parameter."""
    from sklearn.dummy import DummyRegressor

    model = DummyRegressor(strategy="constant", constant=float(trial.config["x"]))  # type: ignore[arg-type]
    trial.log_model(model.fit([[0.0]], [0.0]), [[0.0]])
    return noisy(trial)


def quick(trial: TrialContext) -> float:
    return (float(trial.config["x"]) - 0.3) ** 2  # type: ignore[arg-type]


def two_metrics(trial: TrialContext) -> dict[str, float]:
    """Two metrics that pull apart, and better the longer it is trained; it waits for the gate, as :func:`gated`."""
    x, trained = float(trial.config["x"]), trial.fidelity or 9.0  # type: ignore[arg-type]
    gated(trial)
    return {"gain": -((x - 0.7) ** 2) - 0.1 / trained, "cost": x**2 + 0.1 / trained}


@gives_hypergradient
def forgetful(trial: TrialContext) -> float:
    return quick(trial)


@gives_hypergradient
def hill(trial: TrialContext) -> dict[str, float]:
    """Something to be maximised, with its derivative by ``x``, and by a long vector that is not a parameter."""
    x = float(trial.config["x"])  # type: ignore[arg-type]
    trial.report_hypergradient({"x": 1e6})  # the last one counts
    trial.report_hypergradient({"x": -2 * (x - 0.3), "weights": [3.0, 4.0]})
    depth = 0 if trial.resume_from is None else int((trial.resume_from / "depth").read_text()) + 1
    (trial.checkpoint / "depth").write_text(str(depth))
    return {"score": 1 - (x - 0.3) ** 2, "depth": depth, "seed": trial.seed}


def slow(trial: TrialContext) -> dict[str, float]:
    """Takes ``seconds`` (0.3 by default) and reports a curve."""
    seconds = float(trial.config.get("seconds", 0.3))  # type: ignore[arg-type]
    for step in range(3):
        time.sleep(seconds / 3)
        trial.report(step, {"curve": float(step), "loss": 9.0 - step})
    return {"loss": quick(trial), "extra": 1.0}


def gated(trial: TrialContext) -> dict[str, float]:
    """As :func:`slow`; trials from number ``free`` on wait for the file ``gate``, so that no test comes too late."""
    gate, deadline = Path(str(trial.config["gate"])), time.monotonic() + 1800
    while trial.number >= int(trial.config["free"]) and not gate.exists():  # type: ignore[arg-type]
        assert time.monotonic() < deadline, "nobody opens the gate"
        time.sleep(0.05)
    return slow(trial)


def priced(trial: TrialContext) -> dict[str, float]:
    """As :func:`gated`; reports and returns a cost of 1 to 2 euros."""
    x = float(trial.config["x"])  # type: ignore[arg-type]
    trial.report(0, {"euros": 1 + x})
    gated(trial)
    return {"loss": (x - 0.3) ** 2, "euros": 1 + x}


def reporting(trial: TrialContext) -> float:
    """As :func:`gated`, but it waits after its second report."""
    for step in range(2):
        trial.report(step, {"loss": 9.0 - step})
    return gated(trial)["loss"]


def together(trial: TrialContext) -> dict[str, float]:
    """As :func:`slow`, but no trial ends before as many flows as ``flows`` have begun one."""
    here = Path(os.environ["HPO_TEST_MARKS"])
    (here / f"flow-{os.getppid()}").touch()
    while len(list(here.glob("flow-*"))) < int(trial.config["flows"]):  # type: ignore[arg-type]
        time.sleep(0.05)
    return slow(trial)


def once_then_fine(trial: TrialContext) -> float:
    """Kills its process at the first attempt at a trial."""
    mark = Path(os.environ["HPO_TEST_MARKS"]) / str(trial.number)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(trial)


def broken(trial: TrialContext) -> float:
    """Fails alike at every trial below ``from``, after a moment as long as the configuration says."""
    if trial.number < int(os.environ.get("HPO_TEST_FROM", "99")):
        time.sleep(float(trial.config.get("seconds", 0)))  # type: ignore[arg-type]
        raise FileNotFoundError(f"no {trial.scratch}/input.txt for {trial.config['x']} in trial {trial.number}")
    return quick(trial)


def outlasting(trial: TrialContext) -> dict[str, float]:
    """A ``long`` trial goes on until four others have ended; with how many it saw."""
    here = Path(os.environ["HPO_TEST_MARKS"])
    if not trial.config["long"]:
        (here / f"ended-{trial.number}").touch()
        return {"loss": quick(trial)}
    deadline = time.monotonic() + 600
    while len(ended := list(here.glob("ended-*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    return {"loss": quick(trial), "outlasted": float(len(ended))}


def facts(trial: TrialContext) -> dict[str, float]:
    """What a trial can see of its surroundings."""
    (trial.scratch / "file.txt").write_text("scratch")
    note = trial.scratch / "note.txt"
    note.write_text(f"seed {trial.seed}")
    trial.log_artifact(note)
    note.unlink()  # it was copied
    return {"loss": quick(trial), "pid": os.getpid(), "seed": trial.seed, "files": len(list(trial.scratch.iterdir()))}


def keeps_everything(trial: TrialContext) -> dict[str, float]:
    """Logs every kind of artifact; the best ones a model, too."""
    from matplotlib.figure import Figure
    from sklearn.dummy import DummyRegressor

    trial.log_text("a text", "notes.txt")
    trial.log_dict({"a": 1}, "facts.json")
    trial.log_table({"a": [1, 2]}, "table.json")
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    trial.log_figure(figure, "pictures/line.png")
    trial.log_model(DummyRegressor().fit([[0.0]], [0.0]), [[0.0]])
    return {"loss": quick(trial)}


def epochs(trial: TrialContext) -> dict[str, float]:
    """Trains for as many epochs as asked, one after another; the loss falls with each. Goes on where its parent was."""
    done, resume = 0, trial.resume_from
    if resume is not None:
        done = int((resume / "epoch").read_text())
    asked, loss = int(trial.fidelity or 9), math.inf
    trained = 0
    for epoch in range(done, asked):
        loss = abs(float(trial.config["x"]) - 0.3) + 1 / (epoch + 1)  # type: ignore[arg-type]
        trained += 1
        if not trial.report(epoch, {"loss": loss}):
            break
    (trial.checkpoint / "epoch").write_text(str(done + trained))
    return {"loss": loss, "trained": trained, "seed": trial.seed}


def picky(trial: TrialContext) -> dict[str, float]:
    """As above, but will not go on from what it finds."""
    if trial.resume_from is not None:
        if trial.config["x"] < 0.5:  # type: ignore[operator]
            raise ValueError("the checkpoint has 3 layers, the configuration 2")
        trial.scratch_instead("the checkpoint has 3 layers")
    return {"loss": 1.0, "file": (trial.checkpoint / "weights").write_text("w")}


def outgrown(trial: TrialContext) -> dict[str, float]:
    """Its code has changed since the checkpoints were written, and it says so as :mod:`hpo_flows.keras` does."""
    if trial.resume_from is not None:
        raise InputError("checkpoint", "the parent trial's checkpoint does not fit: it has 3 layers")
    return picky(trial)


def misbehave(trial: TrialContext) -> Any:
    return MISBEHAVIOUR[str(trial.config["how"])](trial)


def _raise(trial: TrialContext) -> float:
    raise RuntimeError("on purpose")


def _print_and_raise(trial: TrialContext) -> float:
    print(f"this is trial {trial.number}")
    mark = Path(os.environ["HPO_TEST_MARKS"]) / f"raised-{trial.number}"
    if not mark.exists() or trial.config["how"] == "print and raise twice":
        mark.touch()
        raise RuntimeError("on purpose")
    return 1.0


def _segfault(trial: TrialContext) -> float:
    import ctypes

    return float(ctypes.string_at(0)[0])


def _print_a_lot(trial: TrialContext) -> float:
    line = "x" * 9_999 + "\n"
    for _ in range(10_000):  # 100 MB; as many as the parent can be made to keep
        sys.stdout.write(line)
    return 1.0


def _spawn_children(trial: TrialContext) -> float:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1800)"])
    (Path(os.environ["HPO_TEST_MARKS"]) / "child").write_text(str(child.pid))
    return 1.0


def _fork(trial: TrialContext) -> float:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    return 1.0


def _leak(trial: TrialContext) -> float:
    hoard = []
    for _ in range(100):
        hoard.append(bytearray(10 << 20))
        time.sleep(0.01)
    time.sleep(1800)  # until somebody looks
    return float(len(hoard))


def _own_run(trial: TrialContext) -> float:
    import mlflow

    mlflow.set_tracking_uri(os.environ["HPO_TEST_URI"])
    with mlflow.start_run(run_name="the objective's own"):
        mlflow.log_metric("loss", 77.0)
    return 1.0


def _autolog(trial: TrialContext) -> float:
    import mlflow
    from sklearn.linear_model import LinearRegression

    mlflow.set_tracking_uri(os.environ["HPO_TEST_URI"])
    mlflow.autolog(silent=True, log_models=False, log_datasets=False)
    LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    return 1.0


def logs_by_mlflow(trial: TrialContext) -> dict[str, float]:
    """Logs by MLflow's own calls and by autologging, with nothing set up."""
    import mlflow
    from sklearn.linear_model import LinearRegression

    mlflow.autolog(silent=True, log_models=False, log_datasets=False)
    x = float(trial.config["x"])  # type: ignore[arg-type]
    for step in range(3):
        mlflow.log_metric("curve", x + step, step=step)
        mlflow.log_metric("loss", 99.0, step=step)  # the result outdoes it
    LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    with mlflow.start_run():
        mlflow.set_tag("asked", "yes")
    return {"loss": x}


def leaves_libraries_open(trial: TrialContext) -> dict[str, float]:
    """An MLflow run that is not ended, a layer whose name Keras counts, and a policy for all layers."""
    import keras
    import mlflow

    found = {"layer": float(keras.layers.Dense(1).name == "dense")}
    found["policy"] = float(keras.config.dtype_policy().name == "float32")
    keras.config.set_dtype_policy("mixed_float16")
    mlflow.set_tracking_uri(os.environ["HPO_TEST_URI"])
    mlflow.start_run()
    return {"loss": 0.0} | found


def _hang(trial: TrialContext) -> float:
    time.sleep(1800)
    return 1.0


def _bad_report(trial: TrialContext) -> float:
    trial.report(0, {"loss": "high"})  # type: ignore[dict-item]
    return 1.0


def _bad_input(trial: TrialContext) -> float:
    raise InputError("callbacks.0.EarlyStopping.monitor", "'los' is not a metric", "name one")


MISBEHAVIOUR: dict[str, Callable[[TrialContext], Any]] = {
    "fine": lambda trial: 1.0,
    "raise": _raise,
    "print and raise": _print_and_raise,
    "print and raise twice": _print_and_raise,
    "nan": lambda trial: float("nan"),
    "inf": lambda trial: {"loss": float("inf")},
    "string": lambda trial: "0.5!",
    "none": lambda trial: None,
    "wrong key": lambda trial: {"accuracy": 0.5},
    "bad report": _bad_report,
    "bad input": _bad_input,
    "2,000 metrics": lambda trial: {"loss": 1.0} | {f"metric_{i}": float(i) for i in range(2_000)},
    "impossible metric name": lambda trial: {"loss": 1.0, "what?!": 2.0},
    "exit": lambda trial: sys.exit(3),
    "_exit": lambda trial: os._exit(4),
    "segfault": _segfault,
    "hang": _hang,
    "fork": _fork,
    "print a lot": _print_a_lot,
    "spawn children": _spawn_children,
    "leak": _leak,
    "own run": _own_run,
    "autolog": _autolog,
}


def _wine() -> tuple[Any, Any]:
    from sklearn.datasets import load_wine

    return load_wine(return_X_y=True)  # type: ignore[no-any-return]


def wine(trial: TrialContext) -> dict[str, float]:
    """A scikit-learn study: model, pictures and data set with the best."""
    from sklearn.tree import DecisionTreeClassifier

    from hpo_flows.sklearn import sklearn_objective

    if trial.fold is not None and trial.config["max_depth"] == 9:
        raise RuntimeError("too deep for a fold")
    return sklearn_objective(lambda config: DecisionTreeClassifier(**config), *_wine(), name="wine")(trial)


def small_trees(trial: TrialContext) -> dict[str, float]:
    """Two metrics of a tree: how often it is right, and how large it is; or the champion's."""
    from sklearn.tree import DecisionTreeClassifier

    X, y = _wine()
    rows, held_out = trial.split(y, stratify=y)
    model = trial.champion
    if model is None:
        model = DecisionTreeClassifier(max_leaf_nodes=trial.config["leaves"], random_state=0).fit(X[rows], y[rows])
    trial.log_model(model, X[held_out][:5])
    return {"accuracy": model.score(X[held_out], y[held_out]), "size": float(model.get_n_leaves())}


def folded_by_two(trial: TrialContext, folds: int) -> float:
    """Takes more than the trial, as what functools.partial is for does."""
    return quick(trial) / folds


def folded(trial: TrialContext) -> dict[str, float]:
    """Slow in the final choice, and remembers on disk what it was called for."""
    if trial.phase != "search":
        part = "test" if trial.fold is None else trial.fold.index
        with open(Path(os.environ["HPO_TEST_MARKS"]) / "called", "a") as marks:
            marks.write(f"{trial.number} {part} begun\n")
            marks.flush()
            time.sleep(0.5)
            marks.write(f"{trial.number} {part} ended\n")
    train, held_out = trial.split(50)
    return {"loss": quick(trial), "train": len(train), "held_out": len(held_out)}


def constant(trial: TrialContext) -> dict[str, float]:
    """A model whose loss is what the configuration says, with noise by its seed; or the champion's."""
    import numpy as np
    from sklearn.dummy import DummyRegressor

    rng = np.random.default_rng(trial.seed)
    model = trial.champion
    if model is None:
        value = float(trial.config["loss"]) + float(trial.config["noise"]) * rng.normal()  # type: ignore[arg-type]
        model = DummyRegressor(strategy="constant", constant=value).fit([[0.0]], [value])
    _, held_out = trial.split(50)
    X = np.zeros((len(held_out), 1))
    trial.log_model(model, X[:5])
    return {"loss": float(np.mean(model.predict(X)))}


def fixed_loss(trial: TrialContext) -> dict[str, float]:
    """Neither logs a model nor scores one."""
    return {"loss": float(trial.config["loss"])}  # type: ignore[arg-type]


def other_metric(trial: TrialContext) -> dict[str, float]:
    """Gives another metric of the champion than of its own models."""
    return {"loss": 1.0} if trial.champion is None else {"mse": 1.0}


def surroundings(trial: TrialContext) -> dict[str, float]:
    """The numbers in the environment of the process that trains."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    names += ("NUMEXPR_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "LOKY_MAX_CPU_COUNT")
    return {"loss": 0.0} | {name: float(os.environ[name]) for name in names if os.environ.get(name)}


def parted(trial: TrialContext) -> dict[str, float]:
    """Trains on the rows that the phase leaves it."""
    train, held_out = trial.split(50)
    return {"loss": quick(trial), "train": len(train), "held_out": len(held_out)}


def cross_validated(trial: TrialContext) -> dict[str, float]:
    """A loss that depends on the configuration, the fold and a little noise; remembers on disk what it trained."""
    import numpy as np

    hard = (0.0, 0.4, 0.1, -0.2)
    for fold in trial.folds(40, of=4):
        if folder := os.environ.get("HPO_TEST_MARKS"):  # not in another machine's worker
            with open(Path(folder) / "folds", "a") as marks:
                marks.write(f"{trial.number} {trial.phase} {fold.index} {sorted(fold.held_out.tolist())}\n")
        time.sleep(float(trial.config.get("seconds", 0.0)))  # type: ignore[arg-type]
        noise = 0.02 * np.random.default_rng((trial.seed, fold.index)).standard_normal()
        fold.score(loss=float(trial.config["x"]) + hard[fold.index] * (fold.of > 1) + noise)  # type: ignore[arg-type]
    return trial.fold_means()


def out_of_gpu_memory(trial: TrialContext) -> float:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
