"""Decides what becomes of a study's trials when its space is changed, and says it before it is done."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.study_run import new_edition_id
from hpo_core.space.configuration import Scalar, identity
from hpo_core.space.search_space import MISSING
from hpo_core.study.editions import defaults_of, next_edition
from hpo_core.study.resume import difference
from hpo_core.study.spec import StudySpec

WIDTH = 80
"""How long a line may be, unless a single word is longer."""


@dataclass(frozen=True)
class SpaceChange:
    """A study's next space, and what it makes of the trials so far.

    Args:
        old: The study so far.
        new: The study in its next edition.
        added: The values that earlier trials count as having had.
        before: The trials, read in the old space.
        after: The trials, read in the new one.
        queue: What was enqueued and not tried yet, and lies outside now.
    """

    old: StudySpec
    new: StudySpec
    added: Mapping[str, Scalar]
    before: History
    after: History
    queue: tuple[Mapping[str, Scalar], ...] = ()

    def lines(self) -> list[str]:
        """What changes, for a terminal."""
        after, outside = self.after, self.after.outside
        lines = [f"{self.new.name}: the space is changed"]
        lines += [part for line in self._differences() for part in _wrapped(line, "  ")]
        total, kept = len(after.every), len(after)
        if not total:
            return lines
        lines.append(f"{kept} of {total} trials stay as evidence, {len(outside)} lie outside and no longer count")
        for name, count in Counter(name for trial in outside for name in trial.outside).most_common():
            example = next(trial for trial in outside if name in trial.outside)
            value = f"{example.config[name]!r}" if name in example.config else example.outside[name]
            lines += _wrapped(f"{count} by {name} (trial {example.number}: {value})", "  ")
        if running := [str(trial.number) for trial in outside if trial.state is TrialState.RUNNING]:
            lines += _wrapped("running now, to the end: " + ", ".join(running), "  ")
        for each in self.queue:
            config = json.dumps(dict(each), ensure_ascii=False)
            lines += _wrapped(f"enqueued, outside and so not tried: {config}")
        gone, best = {trial.number for trial in outside}, self.before.incumbent
        if self.new.metrics:
            lost = sum(trial.number in gone for trial in self.before.front)
            lines += [f"of the {len(self.before.front)} trials of the Pareto front, {lost} lie outside"] if lost else []
        elif best is not None and best.number in gone:
            inside = "no trial" if after.incumbent is None else self._shown(after.incumbent)
            lines += _wrapped(f"the best so far, {self._shown(best)}, lies outside")
            lines += _wrapped(f"the best is now {inside}")
        return lines

    def _shown(self, trial: Trial) -> str:
        assert trial.loss is not None
        return f"trial {trial.number} ({self.new.metric} {self.new.sign * trial.loss:.6g})"

    def _differences(self) -> list[str]:
        old, new = self.old.stored(), self.new.stored()
        lines = []
        for name in dict.fromkeys((*old["space"], *new["space"])):
            was, now = old["space"].get(name), new["space"].get(name)
            if was is None:
                value = f"; {self.added[name]!r} in the trials so far" if name in self.added else ""
                lines.append(f"space.{name}: new{value}")
            elif now is None:
                lines.append(f"space.{name}: gone; its values in the trials so far are ignored")
            elif json.dumps(was) != json.dumps(now):
                lines += difference(f"space.{name}", was, now)
        if old["constraints"] != new["constraints"]:
            lines += difference("constraints", old["constraints"], new["constraints"])
        return lines or ["the order of its parameters"]


def _wrapped(text: str, indent: str = "") -> list[str]:
    """A text as lines that fit on a terminal. Nothing is cut, since the preview is read to decide."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def change_space(ledger: Ledger, given: StudySpec, defaults: Mapping[str, Scalar] | None = None) -> SpaceChange:
    """What becomes of a study whose space is changed. Writes nothing.

    Args:
        ledger: The study as it is stored.
        given: The study with the new space.
        defaults: The values that earlier trials count as having had; by default what the space says itself.

    Raises:
        InputError: Trials lack a parameter, and the space does not say which value they count as having had.
    """
    stored = ledger.spec
    added = defaults_of(given) if defaults is None else {k: v for k, v in defaults.items() if k in given.space}
    new = next_edition(stored, given, new_edition_id(ledger.study_run.tags), added)
    before, after = ledger.load(), Ledger(ledger.store, new, ledger.study_run).load()
    lacking = Counter(name for t in after.outside if {*t.outside.values()} == {MISSING} for name in t.outside)
    for name, count in lacking.items():
        which = "1 trial is without it" if count == 1 else f"{count} trials are without it"
        raise InputError(
            f"space.{name}.default",
            f"it is missing, and {which}",
            f"add default: to {name}, the value that these trials count as having had",
        )
    tried, queue = {trial.identity for trial in before.every}, []
    for config in ledger.study.instructions.queue.values():
        with contextlib.suppress(ValueError):  # a tag is open to every hand
            whole, outside = stored.placed(config)
            if not outside and identity(whole) not in tried and new.placed(config)[1]:
                queue.append(whole)
    return SpaceChange(stored, new, added, before, after, tuple(queue))
