"""The stages of one study, in order, and what the loop shares with the trials of one flow run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from hpo_core.champion.challenge import Challenge
from hpo_core.history.history import History
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Version
from hpo_core.selection.evaluation import Training
from hpo_core.selection.final_choice import Choice
from hpo_flows.base.progress import Observer
from hpo_flows.loop.champion import ChampionStage
from hpo_flows.loop.confirm import ConfirmStage
from hpo_flows.loop.final import FinalStage
from hpo_flows.loop.search import SearchStage
from hpo_flows.loop.stage import Stage
from hpo_flows.reports.description import study_description
from hpo_flows.reports.html.publish import Publisher
from hpo_flows.trials.remote.runner import Runner
from hpo_flows.trials.session import Session


class Stages:
    """The search, and the confirmation, the final choice and the champion if the study asks for them.

    Args:
        ledger: The study.

    Attributes:
        search: The search.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._folds, spec = ledger, FoldLedger(ledger), ledger.spec
        self.search = SearchStage(ledger)
        self._confirm = ConfirmStage(ledger, self.search) if spec.repeating is not None else None
        self._final = FinalStage(ledger, self._folds) if spec.final is not None else None
        self._champion = ChampionStage(ledger, self._folds, self._final) if spec.champion is not None else None

    def __iter__(self) -> Iterator[Stage]:
        return chain(self.of_trials, self.after_trials)

    @property
    def of_trials(self) -> Iterator[Stage]:
        """The stages whose trainings are trials, which anyone may train who asks for one."""
        return (stage for stage in (self.search, self._confirm) if stage is not None)

    @property
    def after_trials(self) -> Iterator[Stage]:
        """The stages that only a flow can work on, since they train an objective."""
        return (stage for stage in (self._final, self._champion) if stage is not None)

    def load(self, history: History) -> bool:
        """Load the state of all stages from MLflow; returns whether nothing is left to do in any."""
        return all([stage.load(history) for stage in self])

    def describe(self, history: History) -> None:
        """Write the study's description, with the final choice as last loaded."""
        self._ledger.study.describe(study_description(self._ledger.spec, history, self.choice))

    def record(self, history: History) -> None:
        """Write the outcomes into the study's run, as last loaded. Idempotent."""
        self.describe(history)
        for stage in (self._final, self._champion):
            if stage is not None:
                stage.record()

    def release(self, training: Training) -> None:
        """Stop treating a training as this flow's; the next load reads its outcome."""
        if training.evaluation is None:
            self._ledger.release(training.trial)
        else:
            self._folds.release(training.run_id)

    @property
    def choice(self) -> Choice | None:
        """The state of the final choice, as last loaded; None if the study asks for none."""
        return None if self._final is None else self._final.choice

    @property
    def challenge(self) -> Challenge | None:
        """The state of the challenge, as last loaded; None if the study asks for none, or has no winner yet."""
        return None if self._champion is None else self._champion.challenge

    @property
    def crowned(self) -> Version | None:
        """The version that this flow has made the champion; None if it has made none."""
        return None if self._champion is None else self._champion.crowned


@dataclass(kw_only=True)
class FlowSession(Session):
    """What the loop and the trials of one flow run share.

    Args:
        stages: What the study does, one after the other.
        publisher: Writes the report.
        observe: Called after each load and about once a second.
        runner: The engine that trains the trials; None if this process's pool does.
    """

    stages: Stages
    publisher: Publisher
    observe: Observer
    runner: Runner | None = None


SESSIONS: dict[str, FlowSession] = {}
"""The sessions of this process, by the id of the study's run."""
