"""Writes ``mlflow.md``: what a study leaves in MLflow and Prefect.

Every tag of the code is here, or among those that only this project reads; a new one that is in neither is an error.
"""

from __future__ import annotations

from hpo_core.ledger.tags import SEARCHED, Tag
from mkdocs_reference.text import table

INTRODUCTION = """# What is in MLflow and Prefect

An experiment holds studies. A study is a run; its trials are runs nested below it, with the configuration as params
and what the objective logged as metrics, under their own names. A fold, a test, a re-training or a score of the
champion is a run nested below its trial. Our tags begin with `hpo.`; the project reads more of them than are listed
here. Claims on trial numbers are params of one further run for each study, in the experiment `hpo-claims`
([decision 1](../decisions/0001-claims.md)).

Every run has what `mlflow.start_run` would have written, for the columns of MLflow's UI: `mlflow.runName`,
`mlflow.user`, `mlflow.source.name` (the objective), `mlflow.source.type`, and, in a git repository,
`mlflow.source.git.commit`, `mlflow.source.git.branch` and `mlflow.source.git.dirty` (whether files have changed since).

![A study and its trials in MLflow](../images/mlflow-study.png)"""

STUDY = {
    Tag.ROLE: "`study`",
    Tag.INSTRUCTION: "with time and random part behind it: what [people told it](../how-to/running-study.md)",
    Tag.EDITION: "likewise: an [edition of its space](../how-to/running-study.md#another-space)",
    Tag.TARGET: "why a study with `trials: +20` goes on to its total",
    Tag.ENDED: "with how many trials it last ended, and why",
    Tag.NOTIFIED: "which of its ends was reported, and when",
    Tag.REFERENCE: "with several metrics: the values from which `hypervolume` counts",
    Tag.FRONT: "with several metrics: the numbers of the trials on the Pareto front, the first 500 of them",
    Tag.SERIES: "the name of its file's studies, if they [follow the data](../how-to/schedules.md#data-that-change)",
    Tag.GENERATION: "its place among them; the highest is current",
    Tag.FOLLOWS: "the id of the study before",
    Tag.DATA: "the digest of its data",
    Tag.DATA_WHY: "why it is current",
    Tag.WARM_START_REPORT: "which past runs [fitted](../how-to/warm-start.md), and why others did not",
    Tag.FLOW_RUN_URL: "its flow run in Prefect's UI",
    Tag.LOGGED_MODEL: "the id of the model that it ended with, on the page *Models*; also of that one's run",
    Tag.WINNER: "the number of the [winner](../how-to/final-choice.md)",
    Tag.WINNER_RUN: "its run",
    Tag.WINNER_RULE: "by which rule",
    Tag.CHAMPION_MODEL: "the model of the [comparison](../how-to/champion.md)",
    Tag.CHAMPION_DECISION: "`promoted` or `refused`",
    Tag.CHAMPION_VERSION: "the version that was registered",
    Tag.CHAMPION_AGAINST: "the champion's version",
    Tag.CHAMPION_REASON: "why",
}
STUDY_ELSE = """\
The description names the incumbent, or the winner and the finalists. Metrics: `best_so_far` by trial number
(with several metrics [`hypervolume`](../how-to/objectives.md)),
`final/<metric>`, `final/<metric>_standard_error`, `test/<metric>`, `challenger/<metric>`,
`challenger/<metric>_deviation`, `champion/<metric>`, `challenger/gain`, `challenger/margin`. Artifact:
[`report.html`](report.md)."""

TRIAL = {
    Tag.ROLE: "`trial`; of its evaluations `fold`, `test`, `seed` or `champion`",
    Tag.NUMBER: "its number",
    Tag.PROPOSAL: "from which seed and history (a digest) it was proposed, and what was expected: enough to replay it",
    Tag.OWNER: "the process responsible for it",
    Tag.LEASE: "until when it is known to be alive",
    Tag.REASON: "why it failed or was stopped",
    Tag.FIDELITY: "how far it is to train",
    Tag.REACHED: "how far it trained, if it was stopped",
    Tag.FOLDS_WANTED: "if it cross-validates: how many folds it has, unless it ends early",
    Tag.PARENT: "the trial whose training it goes on with",
    "hpo.continued": "whether it could, and why not",
    "hpo.warning": "an offered input that the objective did not use: the fidelity, or the rows",
    Tag.BLAMED_KEY: "the key to correct, where an error is the study's fault",
    Tag.METRICS_REFUSED: "metrics whose names MLflow cannot keep",
    Tag.PARAMS_REFUSED: "params that the objective logged by MLflow itself, and that are others in the configuration",
    Tag.ARTIFACTS_LOST: "artifacts that could not be stored",
    Tag.NOT_KEPT: "why its model, or what else was for the best trial, is missing",
    Tag.MODEL: "`kept` if it has the artifact `model`",
    Tag.TASK_RUN_URL: "its task run in Prefect's UI",
    "hpo.strategy": "what proposed it",
    "hpo.bracket": "its bracket, with several fidelities",
    "hpo.repeat_of": "the trial whose configuration it trains again",
    "hpo.rung": "its rung there",
}
TRIAL_ELSE = """\
A param's key is the parameter's name. MLflow takes letters, digits, `_ - . / :` and spaces, and nothing that reads as a
path; in other names, what it refuses becomes `_`, and six digits follow: `lr (log)` is `lr _log_-ba8071`. (A server on
Windows takes no `:`.)

The description has its value and the reason for its proposal. Metrics: the study's at a milestone of `early_stop`
(`hpo.rung.N`), in a fold of [`trial.folds`](../how-to/folds.md) (`hpo.fold.N`), how long it trained
(`hpo.seconds`, with [`cost: seconds`](../how-to/cost.md)), and what it uses
(`system/...`, with `resources: {log: true}`). Artifacts: `output.txt` (what it
printed), `failure.txt` and `on_best.txt` (tracebacks), `model`, `hpo/checkpoint.zip`."""

VERSION = {
    Tag.DECISION: "`promoted` or `refused`; `hpo.reason` says why, with the numbers",
    Tag.VALUES: "the scores of the seeds, in the metric's own direction",
    Tag.MEAN: "their mean",
    Tag.DEVIATION: "their standard deviation",
    Tag.SEEDS: "their seeds",
    Tag.AGAINST: "the champion's version; empty if there was none",
    Tag.AGAINST_VALUE: "its score on the same rows",
    Tag.GAIN: "by how much the winner is better",
    Tag.MARGIN: "how much it takes",
    Tag.CONFIDENCE: "of the comparison",
    Tag.STUDY: "the study it comes from",
    Tag.STUDY_RUN: "that one's run",
    Tag.TRIAL: "the trial",
    Tag.METRIC: "the metric",
    Tag.DIRECTION: "whether less or more of it is better",
    Tag.REPLACES: "if promoted: the previous champion",
    Tag.SEEN: "if promoted: the last version that was known",
    Tag.BECAME_CHAMPION: "when it became the champion",
    Tag.SUPERSEDED: "that it came too late",
    Tag.ROLLED_BACK: "that it was rolled back",
    Tag.FORCED: "the reason of a promotion by hand",
}

INTERNAL = {
    Tag.SCHEMA, Tag.ATTEMPT, Tag.FINAL, Tag.SPEC, Tag.CLAIMS, Tag.STOP, Tag.REPORT, Tag.SNAPSHOT, Tag.IMPORTED,
    Tag.WARM_START, Tag.CONFIG, Tag.SEED, Tag.HISTORY, Tag.TOTAL, Tag.TASK_RUN, Tag.RESULT, Tag.LOST, Tag.CHECKPOINT,
    Tag.FOLD, Tag.FOLDS, Tag.REPEAT, Tag.VERSION,
}  # fmt: skip

PREFECT = """\
The flow run has two artifacts, updated at most every 30 seconds: `NAME-progress`, and `NAME-best` with the best
trials and, if `MLFLOW_TRACKING_URI` is a server, links to their runs."""


def page() -> str:
    """The whole page in Markdown."""
    tags = {value for name, value in vars(Tag).items() if name.isupper() and name != "PREFIX"}
    told = {*STUDY, *TRIAL, *VERSION}
    if missing := tags - told - INTERNAL:
        raise ValueError(f"mkdocs_reference/mlflow.py says nothing of {sorted(missing)}")
    unknown = told - tags - {f"{Tag.PREFIX}{each}" for each in (*SEARCHED, "continued", "warning")}
    if unknown:
        raise ValueError(f"no run has {sorted(unknown)}")
    parts = [INTRODUCTION, "## A study", _tags(STUDY), STUDY_ELSE, "## A trial", _tags(TRIAL), TRIAL_ELSE]
    parts += ["## A version of the champion", _tags(VERSION), "## In Prefect", PREFECT]
    return "\n\n".join(parts) + "\n"


def _tags(meanings: dict[str, str]) -> str:
    return table(["tag", "meaning"], [(f"`{tag}`", text) for tag, text in meanings.items()])
