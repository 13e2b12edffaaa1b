"""Names the tags, params and artifacts this project writes to MLflow, and encodes long texts as tags."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hpo_core.base.storable import plain


class Tag:
    """All tags that this project writes, grouped by what they describe. Never rename one: stored studies use it."""

    PREFIX = "hpo."

    # what a run is
    ROLE = "hpo.role"
    SCHEMA = "hpo.schema"
    STUDY = "hpo.study"
    STUDY_RUN = "hpo.study_run"
    NUMBER = "hpo.number"
    TRIAL = "hpo.trial"
    ATTEMPT = "hpo.attempt"
    FINAL = "hpo.final"

    # a study
    SPEC = "hpo.spec"
    EDITION = "hpo.edition"
    CLAIMS = "hpo.claims"
    TARGET = "hpo.target"
    STOP = "hpo.stop"
    ENDED = "hpo.ended"
    INSTRUCTION = "hpo.instruction"
    REPORT = "hpo.report"
    REFERENCE = "hpo.reference"
    FRONT = "hpo.front"
    NOTIFIED = "hpo.notified"
    SNAPSHOT = "hpo.snapshot"
    FLOW_RUN_URL = "hpo.flow_run_url"
    SERIES = "hpo.series"
    GENERATION = "hpo.generation"
    FOLLOWS = "hpo.follows"
    DATA = "hpo.data"
    DATA_WHY = "hpo.data.why"
    IMPORTED = "hpo.import"
    WARM_START = "hpo.warm_start"
    WARM_START_REPORT = "hpo.warm_start.report"

    # a trial: its input
    # One JSON object holds what only this project reads: schema, configuration, seed, history, most notes. What people
    # search for are tags of their own. Earlier versions wrote a tag for each; both are read.
    PROPOSAL = "hpo.proposal"
    CONFIG = "hpo.config"
    FIDELITY = "hpo.fidelity"
    PARENT = "hpo.parent"
    SEED = "hpo.seed"
    HISTORY = "hpo.history"
    TOTAL = "hpo.total"

    # a trial: its owner
    OWNER = "hpo.owner"
    LEASE = "hpo.lease"
    TASK_RUN = "hpo.task_run"
    TASK_RUN_URL = "hpo.task_run_url"

    # a trial: how it ended
    # Written with a trial's last values: the run has a result, whatever its status says. A flow that presumes the
    # trial dead can overwrite the status, but not this tag. It also tells a result from an intermediate value.
    RESULT = "hpo.result"
    REACHED = "hpo.reached"
    REASON = "hpo.reason"
    LOST = "hpo.lost"
    BLAMED_KEY = "hpo.misfit"
    CHECKPOINT = "hpo.checkpoint"
    FOLDS_WANTED = "hpo.folds_wanted"
    METRICS_REFUSED = "hpo.metrics_refused"
    PARAMS_REFUSED = "hpo.params_refused"
    ARTIFACTS_LOST = "hpo.artifacts_lost"
    NOT_KEPT = "hpo.not_kept"
    MODEL = "hpo.model"
    LOGGED_MODEL = "hpo.logged_model"

    # an evaluation outside the search
    FOLD = "hpo.fold"
    FOLDS = "hpo.folds"
    REPEAT = "hpo.repeat"
    VERSION = "hpo.version"

    # the final choice
    WINNER = "hpo.winner"
    WINNER_RUN = "hpo.winner_run"
    WINNER_RULE = "hpo.winner_rule"

    # the verdict on a challenger, in the study's run
    CHAMPION_MODEL = "hpo.champion_model"
    CHAMPION_DECISION = "hpo.champion_decision"
    CHAMPION_VERSION = "hpo.champion_version"
    CHAMPION_AGAINST = "hpo.champion_against"
    CHAMPION_REASON = "hpo.champion_reason"

    # the verdict on a challenger, at the registered version
    DECISION = "hpo.decision"
    FORCED = "hpo.forced"
    METRIC = "hpo.metric"
    DIRECTION = "hpo.direction"
    VALUES = "hpo.values"
    MEAN = "hpo.mean"
    DEVIATION = "hpo.deviation"
    CONFIDENCE = "hpo.confidence"
    SEEDS = "hpo.seeds"
    AGAINST = "hpo.against"
    AGAINST_VALUE = "hpo.against_value"
    GAIN = "hpo.gain"
    MARGIN = "hpo.margin"

    # the succession of champions, at the registered version
    REPLACES = "hpo.replaces"
    SEEN = "hpo.seen"
    BECAME_CHAMPION = "hpo.reigned"
    SUPERSEDED = "hpo.outrun"
    ROLLED_BACK = "hpo.rolled_back"


CLAIMS = "hpo-claims"
"""The experiment that holds the claims of all studies of a tracking server."""

SCHEMA = "1"

NO_TOTAL = "open"
"""The tag :attr:`Tag.TOTAL` of a trial of a study without a total number of trials."""

TAG_LENGTH = 5_000
"""Long texts are split into tags of this length; MLflow stores 8,000 characters per tag, older releases 5,000."""

WITHDRAWN = "withdrawn"
"""The param ``study`` of a candidate that did not become the study."""

SNAPSHOT_FOLDER, SNAPSHOT = "hpo", "snapshot.json.gz"

CHECKPOINT_NAME = "checkpoint.zip"

CHECKPOINT = f"{SNAPSHOT_FOLDER}/{CHECKPOINT_NAME}"
"""The artifact of a trial's run that holds its checkpoint; the tag ``hpo.checkpoint`` says whether it exists."""

CHECKPOINT_KEPT, CHECKPOINT_DELETED, CHECKPOINT_LEFT = "kept", "deleted", "left: it could not be deleted"

INTERRUPTED = "interrupted: the flow was stopped"

RUNG = "hpo.rung."
"""Prefix of a milestone metric, followed by the number of steps. A search returns only the latest value of a metric,
so each milestone needs its own key."""

FOLD_VALUE = "hpo.fold."
"""Prefix of the metrics of the study's metric in each fold of a trial that cross-validates, followed by 1, 2, ..."""

MEASURED_SECONDS = "hpo.seconds"
"""The metric of how long a trial trained, all attempts together, in a study whose cost that is."""

INTERNAL = (RUNG, FOLD_VALUE, MEASURED_SECONDS)
"""Prefixes of the metrics that no objective logs under such a name; they are not shown among a trial's metrics."""

SYSTEM = "system/"
"""Prefix of the metrics of what a trial uses, by which MLflow's UI tells them from others."""

HIDDEN = (*INTERNAL, SYSTEM)
"""Prefixes of the metrics that are not among a trial's own."""

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""

TABLES = "mlflow.loggedArtifacts"
"""The tag that tells MLflow's UI which artifacts of a run are tables."""

SEARCHED = {"strategy", "bracket", "rung", "repeat_of"}
"""The notes of a proposal that are tags of their own."""

TRIAL_TAGS = {
    Tag.ROLE, Tag.SCHEMA, Tag.STUDY, Tag.NUMBER, Tag.FIDELITY, Tag.REACHED, Tag.PARENT, Tag.SEED,
    Tag.HISTORY, Tag.LEASE, Tag.OWNER, Tag.REASON, Tag.STOP, Tag.TASK_RUN, Tag.TASK_RUN_URL, Tag.RESULT,
    Tag.FOLDS_WANTED, Tag.LOGGED_MODEL, Tag.EDITION, Tag.TOTAL,
}  # fmt: skip


def split_tag(key: str, text: str) -> dict[str, str]:
    """Split a text into tags ``key``, ``key.1``, ... short enough that MLflow does not truncate them."""
    parts = [text[i : i + TAG_LENGTH] for i in range(0, len(text), TAG_LENGTH)] or [""]
    return {key if i == 0 else f"{key}.{i}": part for i, part in enumerate(parts)}


def replaced_tag(key: str, text: str, tags: Mapping[str, str]) -> dict[str, str]:
    """As :func:`split_tag`, for a run that has the tag already: what a longer text has left over becomes empty.

    >>> replaced_tag("note", "short", {"note": "a" * 5000, "note.1": "b"})
    {'note': 'short', 'note.1': ''}
    """
    parts = split_tag(key, text)
    while (name := f"{key}.{len(parts)}") in tags:
        parts[name] = ""
    return parts


def join_tag(key: str, tags: Mapping[str, str]) -> str:
    """The inverse of :func:`split_tag`; empty if there is none."""
    parts = [tags.get(key, "")]
    while (more := tags.get(f"{key}.{len(parts)}")) is not None:
        parts.append(more)
    return "".join(parts)


def fold(facts: Mapping[str, Any]) -> dict[str, str]:
    """The tags that hold facts of a proposal, by their names without the prefix; ``config`` is JSON already.

    >>> fold({"seed": "0", "config": '{"x": 0.5}'})
    {'hpo.proposal': '{"seed": "0", "config": {"x": 0.5}}'}
    """
    texts = {name: json.loads(value) if name == "config" else str(value) for name, value in facts.items()}
    return split_tag(Tag.PROPOSAL, json.dumps(texts))


def facts_of(tags: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a proposal as :func:`fold` has put them into tags, by their names; none without the tag.

    >>> facts_of(fold({"seed": "0", "config": '{"x": 0.5}'}))
    {'seed': '0', 'config': {'x': 0.5}}

    Raises:
        ValueError: The tag is damaged.
    """
    if not (text := join_tag(Tag.PROPOSAL, tags)):
        return {}
    try:
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its tag {Tag.PROPOSAL} cannot be read ({type(error).__name__})") from None
    return facts


def named(tags: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, str]:
    """All tags of a run, each fact of its proposal but the configuration under a name of its own.

    >>> tags = {"hpo.number": "1", **fold({"seed": "0", "config": '{"x": 0.5}'})}
    >>> named(tags, facts_of(tags))
    {'hpo.seed': '0', 'hpo.number': '1'}
    """
    found = {f"{Tag.PREFIX}{name}": str(value) for name, value in facts.items() if name != "config"}
    found.update(tags)
    key, part = Tag.PROPOSAL, 0
    while found.pop(key, None) is not None:
        part += 1
        key = f"{Tag.PROPOSAL}.{part}"
    return found


def unfold(tags: Mapping[str, str]) -> dict[str, str]:
    """The inverse of :func:`fold`: as :func:`named`, with the configuration as JSON.

    >>> unfold({"hpo.number": "1", **fold({"seed": "0", "config": '{"x": 0.5}'})})
    {'hpo.config': '{"x": 0.5}', 'hpo.seed': '0', 'hpo.number': '1'}

    Raises:
        ValueError: The tag is damaged.
    """
    facts = facts_of(tags)
    return ({Tag.CONFIG: json.dumps(facts["config"])} if "config" in facts else {}) | named(tags, facts)


def refused_tag(names: Iterable[str], before: Mapping[str, str] = {}) -> dict[str, str]:
    """The tag that lists the metrics of a run that MLflow refused, including those already listed in ``before``.

    >>> refused_tag(["top@5"], {"hpo.metrics_refused": "a//b"})
    {'hpo.metrics_refused': 'a//b, top@5'}
    """
    known = before.get(Tag.METRICS_REFUSED, "")
    every = {plain(name) for name in names} | set(known.split(", ") if known else [])
    return {Tag.METRICS_REFUSED: ", ".join(sorted(every))[:1000]}


def parse_count(text: str, digits: int) -> int | None:
    """A number as the ledger writes it; None for anything else.

    ``str.isdigit`` and ``int`` accept digits of every script, and a tag may hold thousands of them.
    """
    plain_digits = text.isascii() and text.isdigit() and len(text) <= digits
    return int(text) if plain_digits and (text[0] != "0" or text == "0") else None


MODEL, ON_BEST = "model", "on_best.txt"

MODEL_KEPT = "kept"
"""The tag ``hpo.model`` of a run that has the artifact :data:`MODEL`."""
