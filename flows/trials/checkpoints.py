"""Packs, restores and discards the checkpoints of trials. Each is one archive, an artifact of the trial's run."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpo_core.history.history import History
from hpo_core.history.limits import excesses
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Store
from hpo_core.ledger.tags import CHECKPOINT, CHECKPOINT_KEPT
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")


def pack(folder: Path, target: Path) -> Path | None:
    """Archive the files of a folder; None if there are none. Stored uncompressed, since weights hardly compress."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    return target


def packed(folder: Path, target: Path) -> Path | None:
    """Like :func:`pack`, but None if the disk refuses: a result is worth more than its checkpoint."""
    try:
        return pack(folder, target)
    except OSError as error:
        log.warning("the checkpoint %s cannot be kept: %s", folder, error)
        return None


def unpack(file: Path, folder: Path) -> None:
    """The inverse of :func:`pack`.

    Raises:
        ValueError: The archive is damaged. The checksum of every file is verified.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)  # never writes outside the folder
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the archive is damaged ({error})") from None


def inherited(store: Store, history: History, number: int, folder: Path) -> tuple[Path | None, str]:
    """Unpack the checkpoint of a trial below a folder. Returns its folder, or None and the reason it is missing."""
    parent = next((each for each in history.every if each.number == number), None)
    if parent is None:
        return None, f"trial {number} is gone"
    if parent.notes.get("checkpoint") != CHECKPOINT_KEPT:
        return None, f"there is no checkpoint of trial {number}"
    folder.mkdir(parents=True, exist_ok=True)
    file = store.fetch(parent.run_id, CHECKPOINT, folder)
    if file is None:
        return None, f"the checkpoint of trial {number} is not there"
    resume = folder / "resume"
    try:
        unpack(file, resume)
    except (ValueError, OSError) as error:
        log.warning("a trial starts from scratch: the checkpoint of trial %d: %s", number, error)
        return None, f"the checkpoint of trial {number} cannot be read: {error}"
    finally:
        file.unlink(missing_ok=True)
    return resume, ""


def worth_keeping(spec: StudySpec, history: History, trial: Trial, metrics: Mapping[str, float]) -> bool:
    """Whether a later trial may resume from a trial that has just ended. Same rule as :func:`discard_superfluous`.

    Args:
        spec: The study.
        history: Its trials.
        trial: The one that has ended.
        metrics: All that it has returned and reported.
    """
    losses = tuple(each.loss(metrics[each.metric]) for each in spec.objectives)
    ended = replace(
        trial,
        state=TrialState.COMPLETE,
        loss=losses[0],
        losses=losses if spec.metrics else (),
        excess=excesses(spec.limiting, metrics),
    )
    others = [each for each in history if each.number != trial.number]
    return spec.promotes and trial.number in spec.resumable(History([*others, ended]))


def discard_superfluous(ledger: Ledger, history: History) -> None:
    """Delete the checkpoints that no trial will resume from any more."""
    kept = [trial for trial in history.complete if trial.notes.get("checkpoint") == CHECKPOINT_KEPT]
    if kept:
        needed = ledger.spec.resumable(history)
        for trial in kept:
            if trial.number not in needed:
                ledger.discard_checkpoint(trial)
