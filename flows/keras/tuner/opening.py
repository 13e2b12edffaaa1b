"""Opens the study of a script: one whose ``build_model`` has come to declare more goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo_core.base.errors import StudyConflict

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.study.spec import StudySpec
    from hpo_flows.keras.space.exploration import Exploration

ANEW = "give another project_name, or overwrite=True to delete what is stored and begin anew"


def open_tuned(spec: StudySpec, uri: str | None, found: Exploration) -> Ledger:
    """The study in MLflow, created if it is new. Its earlier trials have the defaults of new hyperparameters.

    Raises:
        StudyConflict: A hyperparameter is another one than before, or is gone, or the objective is another.
    """
    from hpo_flows.api import open_ledger

    try:
        return open_ledger(spec, uri, defaults=found.defaults)
    except StudyConflict as conflict:
        raise StudyConflict(conflict.study, conflict.differences, ANEW) from None
