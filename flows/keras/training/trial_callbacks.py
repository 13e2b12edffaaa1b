"""Makes Keras callbacks from plain data, and adapts a script's callbacks; each trial's write to its own folder.

Keras is imported in the functions, which run in worker processes, or when a script checks its callbacks.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hyperparameters import HyperParameters

Schedule = Callable[[int, float], float]


@dataclass(frozen=True)
class TrialCallback:
    """A callback of one trial.

    Args:
        where: Its place in the study file, for errors: ``callbacks.0.EarlyStopping``.
        callback: The Keras object.
        output: The file or folder that it writes; None if it writes none.
        folder: The target folder below the run's artifacts.
        strict: Whether the metric that it monitors must exist; a script's callbacks get Keras' warning instead.
    """

    where: str
    callback: Any
    output: Path | None = None
    folder: str = ""
    strict: bool = False


def named_callbacks(specification: Sequence[Mapping[str, Mapping[str, Any]]], scratch: Path) -> list[TrialCallback]:
    """The callbacks of a study file.

    Args:
        specification: ``{name: settings}`` each, as :func:`hpo_core.study.callbacks.checked_callback` returns them.
        scratch: The trial's folder.

    Raises:
        InputError: A schedule's function cannot be imported.
    """
    placed = []
    for i, each in enumerate(specification):
        ((name, settings),) = each.items()
        made = _placed(f"callbacks.{i}.{name}", _made(i, name, dict(settings)), scratch / "callbacks" / str(i))
        placed.append(replace(made, strict=True))
    return placed


def own_callbacks(
    callbacks: Sequence[Any], scratch: Path, hp: HyperParameters | None = None, number: int = 0
) -> list[TrialCallback]:
    """Adapt callbacks that no other training uses: redirect their paths into the trial's folder.

    Args:
        callbacks: Those of a script.
        scratch: The training's folder.
        hp: The trial's configuration, which TensorBoard shows.
        number: The trial's number.

    Raises:
        InputError: One of them cannot be used in a trial.
    """
    import keras

    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    placed = []
    for i, callback in enumerate(callbacks):
        where = f"callbacks.{i}.{type(callback).__name__}"
        if not isinstance(callback, keras.callbacks.Callback):
            raise InputError(where, f"{callback!r} is not a Keras callback", "give objects of keras.callbacks")
        placed.append(_placed(where, callback, scratch / "callbacks" / str(i)))
        if isinstance(callback, keras.callbacks.TensorBoard) and hp is not None:
            placed.append(TrialCallback(where, hparams_callback(callback.log_dir, hp, number)))
    return placed


def hparams_callback(folder: str, hp: HyperParameters, number: int) -> Any:
    """A callback that writes the trial's configuration to TensorBoard's log, where its HParams page finds it."""
    api = importlib.import_module("tensorboard.plugins.hparams.api")  # it has no types

    values = {name: "None" if value is None else value for name, value in hp.values.items()}
    return api.KerasCallback(folder, values, trial_id=str(number))


def _made(i: int, name: str, settings: dict[str, Any]) -> Any:
    import keras

    if name == "LearningRateScheduler":
        return keras.callbacks.LearningRateScheduler(schedule(f"callbacks.{i}.{name}", settings))
    if name == "ModelCheckpoint":
        stem = "best" if settings.get("save_best_only") else "epoch-{epoch:03d}"
        settings["filepath"] = stem + (".weights.h5" if settings.get("save_weights_only") else ".keras")
    if name == "CSVLogger":
        settings["filename"] = "training.csv"
    if isinstance(settings.get("profile_batch"), list):
        settings["profile_batch"] = tuple(settings["profile_batch"])
    return getattr(keras.callbacks, name)(**settings)


def _placed(where: str, callback: Any, folder: Path) -> TrialCallback:
    """Redirect the paths of a callback into its own folder, and determine where its output belongs."""
    import keras

    kinds = keras.callbacks
    if isinstance(callback, kinds.BackupAndRestore):
        paths = vars(kinds.BackupAndRestore(str(folder)))
        vars(callback).update({name: path for name, path in paths.items() if str(path).startswith(str(folder))})
        return TrialCallback(where, callback, folder, "backup")
    if isinstance(callback, kinds.ModelCheckpoint):
        folder.mkdir(parents=True)
        callback.filepath = str(folder / _own_part(Path(callback.filepath)))
        return TrialCallback(where, callback, folder, "checkpoints")
    if isinstance(callback, kinds.TensorBoard):
        callback.log_dir = str(folder)
        return TrialCallback(where, callback, folder, "tensorboard")
    if isinstance(callback, kinds.CSVLogger):
        folder.mkdir(parents=True)
        callback.filename = str(folder / Path(callback.filename).name)
        return TrialCallback(where, callback, folder, "")
    return TrialCallback(where, callback)


def _own_part(path: Path) -> Path:
    """The name of a file, with its parent folders from the first one that contains a placeholder such as the epoch.

    >>> str(_own_part(Path("/tmp/run/{epoch:02d}/model.keras"))), str(_own_part(Path("out/best.keras")))
    ('{epoch:02d}/model.keras', 'best.keras')
    """
    first = next((i for i, part in enumerate(path.parts) if "{" in part), len(path.parts) - 1)
    return Path(*path.parts[first:])


def schedule(where: str, settings: Mapping[str, Any]) -> Schedule:
    """A learning-rate schedule as a function of the epoch and the current rate.

    Named schedules return the current rate times a ratio. So they work with any rate of the configuration, and continue
    correctly in a trial that resumes from another.

    >>> rate, halved = 0.1, schedule("", {"schedule": "step", "every": 2, "factor": 0.5})
    >>> [rate := halved(epoch, rate) for epoch in range(5)]
    [0.1, 0.1, 0.05, 0.05, 0.025]

    Raises:
        InputError: A function cannot be imported.
    """
    name = settings["schedule"]
    if ":" in name:
        return _imported(where, name)
    if name == "exponential":
        return lambda epoch, rate: rate * settings["rate"] if epoch else rate
    if name == "step":
        every, factor = settings["every"], settings["factor"]
        return lambda epoch, rate: rate * factor if epoch and epoch % every == 0 else rate
    epochs, floor = settings["epochs"], settings.get("floor", 0.0)

    def height(epoch: int) -> float:
        return float(floor + (1 - floor) * (1 + math.cos(math.pi * min(epoch, epochs) / epochs)) / 2)

    return lambda epoch, rate: rate * height(epoch) / height(epoch - 1) if 0 < epoch <= epochs else rate


def _imported(where: str, reference: str) -> Schedule:
    module, _, name = reference.partition(":")
    try:
        found: Schedule = getattr(importlib.import_module(module), name)
    except Exception as error:
        problem = f"{reference!r} cannot be imported ({type(error).__name__}: {error})"
        raise InputError(f"{where}.schedule", problem, "correct its name") from None
    return found
