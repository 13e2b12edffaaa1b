"""Writes the description that MLflow shows on a trial's page, as Markdown."""

from __future__ import annotations

import re

from hpo_core.base.storable import plain
from hpo_core.history.trial import Trial
from hpo_core.ledger.store import Run

LONGEST = 500


def as_markdown(text: object) -> str:
    """Escape a text so that Markdown shows it unchanged on one line, also in a table cell.

    >>> print(as_markdown("[a|b] *c* <d>"))
    \\[a\\|b\\] \\*c\\* &lt;d&gt;
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(plain(text).split()))
    line = line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", line)


def trial_note(trial: Trial, study: Run, outcome: str = "") -> str:
    """What a trial's page says first: how it ended, why it was proposed, and where its study is.

    Args:
        trial: The trial.
        study: The study's run.
        outcome: How it ended; empty while it runs.
    """
    # Relative, since nobody knows under which addresses people open MLflow.
    page = f"#/experiments/{study.experiment}/runs/{study.id}?workflowType=machine_learning"
    lines = [
        f"**{as_markdown(outcome)}**" if outcome else "",
        f"{as_markdown(trial.proposed)}.",
        f"Trial {trial.number} of the study [{as_markdown(study.name)}]({page})",
    ]
    return "\n\n".join(filter(None, lines))
