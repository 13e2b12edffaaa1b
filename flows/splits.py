"""Which rows an objective trains on and which it is scored on, in each phase of a study.

The rows fall into test data and development data, once for all. The search sees development data alone, in one fixed
split; fold ``k`` of the final choice is scored on the ``k``-th part of the development data and trained on the others;
the winner is at last trained on all development data and scored on the test data, and so is the champion that it is
compared with. The search's validation rows are development data, too: the folds average the luck of that split away.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

from hpo_core.trial import Fold, Phase

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
) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to be scored on; see :meth:`flows.TrialContext.split` for the arguments.

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

    count = data if isinstance(data, int) else len(data)
    labels, members = _column(stratify, "stratify", count), _column(groups, "groups", count)
    if not shuffle and (labels is not None or members is not None):
        raise ValueError("shuffle=False keeps the rows in their order, which stratify and groups cannot; leave one out")
    if isinstance(test, int | float):
        development, held_out = _holdout(np.arange(count), labels, members, test, shuffle, seed, "test")
    else:
        held_out = np.asarray(test, dtype=np.int64)
        if held_out.size and not (0 <= held_out.min() and held_out.max() < count):
            raise ValueError(f"test: there are {count} rows, and it names row {held_out.max()}")
        development = np.setdiff1d(np.arange(count), held_out)
    if phase in ("test", "seed", "champion"):
        return development, held_out
    if fold is not None:
        return _fold(development, labels, members, fold, shuffle, seed)
    return _holdout(development, labels, members, validation, shuffle, seed, "validation")


def _column(values: Any, name: str, count: int) -> Any:
    """Labels or groups as an array with a value a row."""
    import numpy as np

    if values is None:
        return None
    column = np.asarray(values)
    if column.shape != (count,):
        raise ValueError(f"{name}: has shape {column.shape}, and there are {count} rows; give a value a row")
    return column


def _holdout(
    rows: Rows, labels: Any, members: Any, share: float, shuffle: bool, seed: int, name: str
) -> tuple[Rows, Rows]:
    """Part of the rows held out, without tearing groups apart; of ordered rows the last ones."""
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    if not 0 < share < 1:
        raise ValueError(f"{name}: {share} is no share of the rows; give one between 0 and 1")
    try:
        if members is not None:
            splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
            kept, held_out = next(splitter.split(rows, groups=members[rows]))
            return rows[kept], rows[held_out]
        strata = None if labels is None else labels[rows]
        settings: dict[str, Any] = {"random_state": seed, "stratify": strata} if shuffle else {"shuffle": False}
        kept, held_out = train_test_split(rows, test_size=share, **settings)
    except ValueError as error:
        raise ValueError(f"{name}: the rows cannot be split so: {error}") from None
    return kept, held_out


def _fold(rows: Rows, labels: Any, members: Any, fold: Fold, shuffle: bool, seed: int) -> tuple[Rows, Rows]:
    """One fold; of ordered rows, a stretch of them, with what came before it to train on."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, TimeSeriesSplit

    splitter: Any
    if not shuffle:
        splitter = TimeSeriesSplit(fold.of)
    elif members is not None:
        kind = GroupKFold if labels is None else StratifiedGroupKFold
        splitter = kind(fold.of, shuffle=True, random_state=seed)
    else:
        kind = KFold if labels is None else StratifiedKFold
        splitter = kind(fold.of, shuffle=True, random_state=seed)
    strata = None if labels is None else labels[rows]
    parts = splitter.split(rows, strata, None if members is None else members[rows])
    train, held_out = list(parts)[fold.index]
    return rows[train], rows[held_out]
