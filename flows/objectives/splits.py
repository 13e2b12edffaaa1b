"""Chooses the rows that an objective trains on and the rows it is scored on, in each phase of a study.

The rows are divided once into test data and development data. The search sees only development data, each trial in a
split of its own: where all share one, the search finds what suits the luck of that split (Nagler, Schneider, Bischl and
Feurer 2024, "Reshuffling resampling splits can improve generalization of hyperparameter optimization",
arXiv:2405.15393). A trial that cross-validates is scored on all development data, and there is little such luck; these
trials share their folds, to be compared fold by fold. Fold ``k`` of the final choice is scored on the ``k``-th part of
the development data and trained on the others. At the end the winner is trained on all development data and scored on
the test data, and so is the champion that it is compared with.

numpy and scikit-learn are imported in the functions, so that the flow's process does not load them.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

from hpo_core.selection.evaluation import Fold, Phase

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray[Any, np.dtype[np.int64]]


def split(
    data: int | Sized,
    *,
    phase: Phase,
    fold: Fold | None = None,
    stratify: Any = None,
    groups: Any = None,
    test: float | Sequence[int] = 0.2,
    validation: float = 0.2,
    shuffle: bool = True,
    seed: int = 0,
    reshuffle: int | None = None,
) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to score on; see :meth:`hpo_flows.TrialContext.split` for the other arguments.

    Args:
        reshuffle: The seed of the search's split; None for one that depends on ``seed`` alone.

    Raises:
        ValueError: The arguments do not fit each other or the data; the message says which.

    >>> train, held_out = split(100, phase="search")
    >>> len(train), len(held_out)
    (64, 16)
    >>> train, held_out = split(100, phase="test")
    >>> len(train), len(held_out)
    (80, 20)
    >>> train, held_out = split(100, phase="fold", fold=Fold(0, 5), shuffle=False)
    >>> train.max() < held_out.min()
    np.True_
    """
    import numpy as np

    development, held_out, labels, members = _apart(data, stratify, groups, test, shuffle, seed)
    if phase in ("test", "seed", "champion"):
        return development, held_out
    if fold is not None:
        return _parts(development, labels, members, fold.of, shuffle, seed)[fold.index]
    if reshuffle is not None:
        seed = int(np.random.SeedSequence((seed, reshuffle)).generate_state(1)[0])
    return _holdout(development, labels, members, validation, shuffle, seed, "validation")


SHARED = 2**31
"""The ``reshuffle`` of folds that all trials share; seeds of trials are smaller. The final choice has other folds."""


def folds(
    data: int | Sized,
    *,
    of: int,
    stratify: Any = None,
    groups: Any = None,
    test: float | Sequence[int] = 0.2,
    shuffle: bool = True,
    seed: int = 0,
    reshuffle: int = SHARED,
) -> list[tuple[Rows, Rows]]:
    """The folds of the development data in which one trial is cross-validated: rows to train on and to score on.

    Args:
        reshuffle: The seed of the division.

    Raises:
        ValueError: The arguments do not fit each other or the data; the message says which.

    >>> parts = folds(100, of=4)
    >>> [len(held_out) for _, held_out in parts]
    [20, 20, 20, 20]
    """
    import numpy as np

    if not isinstance(of, int | np.integer) or of < 2:
        raise ValueError(f"of: {of!r} is not a number of folds; give 2 or more")
    development, _, labels, members = _apart(data, stratify, groups, test, shuffle, seed)
    division = int(np.random.SeedSequence((seed, reshuffle)).generate_state(1)[0])
    return _parts(development, labels, members, int(of), shuffle, division)


def _apart(
    data: int | Sized, stratify: Any, groups: Any, test: float | Sequence[int], shuffle: bool, seed: int
) -> tuple[Rows, Rows, Any, Any]:
    """The rows of the development data and those of the test data; labels and groups as arrays."""
    import numpy as np

    count = data if isinstance(data, int | np.integer) else len(data)
    labels, members = _column(stratify, "stratify", count), _column(groups, "groups", count)
    if not shuffle and (labels is not None or members is not None):
        raise ValueError("shuffle=False keeps the rows in their order, which stratify and groups cannot; leave one out")
    if isinstance(test, int | float | np.number):
        development, held_out = _holdout(np.arange(count), labels, members, test, shuffle, seed, "test")
    else:
        held_out = _named(test, count)
        development = np.setdiff1d(np.arange(count), held_out)
    return development, held_out, labels, members


def _named(test: Any, count: int) -> Rows:
    """The rows that are named one by one, by their numbers or by a mask with one value per row."""
    import numpy as np

    given = np.asarray(test)
    if given.dtype == bool:
        if given.shape != (count,):
            raise ValueError(
                f"test: the mask has shape {given.shape}, and there are {count} rows; give one value per row"
            )
        return np.flatnonzero(given)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError("test: give a share of the rows, their numbers, or a mask of booleans with one value per row")
    rows = given.astype(np.int64)
    for row in rows[(rows < 0) | (rows >= count)][:1]:
        raise ValueError(f"test: there are {count} rows, and it names row {row}; the first one is 0")
    found, times = np.unique(rows, return_counts=True)
    for row in found[times > 1][:1]:
        raise ValueError(f"test: row {row} is listed twice, and would count twice; list it once")
    return rows


def _column(values: Any, name: str, count: int) -> Any:
    """Labels or groups as an array with one value per row."""
    import numpy as np

    if values is None:
        return None
    column = np.asarray(values)
    if column.shape != (count,):
        raise ValueError(f"{name}: has shape {column.shape}, and there are {count} rows; give one value per row")
    return column


def _holdout(
    rows: Rows, labels: Any, members: Any, share: float, shuffle: bool, seed: int, name: str
) -> tuple[Rows, Rows]:
    """Hold out part of the rows without dividing groups; of ordered rows, the last ones."""
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    if not 0 < share < 1:
        raise ValueError(f"{name}: {share} is not a share of the rows; give one between 0 and 1")
    try:
        if members is not None:
            splitter = GroupShuffleSplit(n_splits=1, test_size=float(share), random_state=seed)
            kept, held_out = next(splitter.split(rows, groups=members[rows]))
            return rows[kept], rows[held_out]
        strata = None if labels is None else labels[rows]
        settings: dict[str, Any] = {"random_state": seed, "stratify": strata} if shuffle else {"shuffle": False}
        kept, held_out = train_test_split(rows, test_size=float(share), **settings)
    except ValueError as error:
        raise ValueError(f"{name}: the rows cannot be split so: {error}") from None
    return kept, held_out


def _parts(rows: Rows, labels: Any, members: Any, of: int, shuffle: bool, seed: int) -> list[tuple[Rows, Rows]]:
    """All folds; of ordered rows, contiguous ranges to score on and all rows before each to train on."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, TimeSeriesSplit

    splitter: Any
    if not shuffle:
        splitter = TimeSeriesSplit(of)
    elif members is not None:
        kind = GroupKFold if labels is None else StratifiedGroupKFold
        splitter = kind(of, shuffle=True, random_state=seed)
    else:
        kind = KFold if labels is None else StratifiedKFold
        splitter = kind(of, shuffle=True, random_state=seed)
    strata = None if labels is None else labels[rows]
    try:
        parts = list(splitter.split(rows, strata, None if members is None else members[rows]))
    except ValueError as error:
        raise ValueError(f"{of} folds: the rows cannot be split so: {error}") from None
    return [(rows[train], rows[held_out]) for train, held_out in parts]
