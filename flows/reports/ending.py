"""Finds where a study's outcome is: the best configuration as a file, its model, the report, and MLflow's pages."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo_core.ledger.tags import MODEL
from hpo_core.selection.repeats import trainings_of
from hpo_core.study.names import file_name
from hpo_core.tracking.models import FLAVORS
from hpo_flows.reports.links import run_url
from hpo_flows.reports.text import one_line, outcome_text

if TYPE_CHECKING:
    from hpo_core.history.history import History
    from hpo_core.history.trial import Trial
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.selection.final_choice import Choice
    from hpo_core.study.spec import StudySpec

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
"""A text that YAML reads as itself without quotes, unless it is a word of :data:`_WORDS`."""

_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none"}
"""What some version of YAML or some reader of it takes for something else than text."""


@dataclass(frozen=True)
class Model:
    """A trained model in the artifacts of a run, and the package of MLflow that loads it as it was saved."""

    uri: str
    flavor: str


@dataclass(frozen=True)
class Places:
    """Where the outcome of a study is.

    Args:
        ui: The study's page in MLflow, or the command that opens it.
        report: Where the report is.
        file: The file with the best configuration, or why it could not be written; empty if no trial is complete.
        model: The model of the best trial or winner; None if none was logged.
    """

    ui: str
    report: str
    file: str = ""
    model: Model | None = None


def as_yaml(config: Mapping[str, Any]) -> list[str]:
    """A configuration as lines of YAML, read alike by versions 1.1 and 1.2.

    >>> as_yaml({"rate": 1e-05, "kind": "adam", "pool size": "3", "flag": True})
    ['rate: 1.0e-05', 'kind: adam', '"pool size": "3"', 'flag: true']
    """
    return [f"{_scalar(name)}: {_scalar(value)}" for name, value in config.items()]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))  # whose strings are YAML, too
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")  # YAML 1.1 reads 1e-05 as text
    return text


def _escaped(character: str) -> str:
    code = ord(character)
    return character if character.isprintable() else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def write_best(spec: StudySpec, best: Trial, choice: Choice | None) -> str:
    """Write the best configuration to ``best-NAME.yaml`` in the working folder; returns its path, or a warning."""
    path = Path(f"best-{file_name(spec.name)}.yaml")
    winner = None if choice is None else choice.winner
    value = outcome_text(spec, best if winner is None else winner.averaged)
    about = f"# study {spec.name}, trial {best.number}: {one_line(value)}"
    try:
        path.write_text("\n".join([about, *as_yaml(best.config), ""]), encoding="utf-8")
    except OSError as error:
        return f"warning: {path} cannot be written: {error.strerror or error}"
    return str(path)


def kept_model(ledger: Ledger, history: History, best: Trial, choice: Choice | None) -> Model | None:
    """The model of the best configuration; None if there is none. See :func:`model_runs` for which."""
    for run in model_runs(history, best, choice):
        if (about := ledger.store.download(run, f"{MODEL}/MLmodel")) is not None:
            flavors = set(re.findall(r"^  (\w+):$", about.decode("utf-8", "replace"), re.MULTILINE))
            flavor = next((each for each in FLAVORS.values() if each in flavors), "pyfunc")
            return Model(f"runs:/{run}/{MODEL}", flavor)
    return None


def model_runs(history: History, best: Trial, choice: Choice | None) -> list[str]:
    """The runs that may hold the model of the best configuration, the first choice first.

    Of the winner of a final choice that is its test. Otherwise it is a training that confirmed the configuration, a
    typical one: the luckiest one is no better than the others, but looks it.
    """
    winner = None if choice is None else choice.winner
    tested = [choice.test.run_id] if choice is not None and choice.test is not None else []
    tested = tested if winner is not None and winner.trial.number == best.number else []
    return [*tested, *(trial.run_id for trial in trainings_of(history, best))]


def model_lines(model: Model) -> list[str]:
    """The lines of Python that load a model."""
    return [f"import mlflow.{model.flavor}", f'model = mlflow.{model.flavor}.load_model("{model.uri}")']


def serve_line(model: Model) -> str:
    """The command that serves a model; the environment has to be active. MLflow's UI has port 5000."""
    return f"mlflow models serve -m {model.uri} --env-manager local --port 5001"


def places_of(ledger: Ledger, history: History, best: Trial | None, choice: Choice | None) -> Places:
    """Where the outcome of a study is; writes the best configuration to the working folder."""
    name, run = ledger.spec.name, ledger.study_run
    command = shlex.quote(name)
    address = run_url(ledger.store.uri, run.experiment, run.id)
    return Places(
        address or f"hpo ui {command}",
        f"hpo report {command}, or report.html in its MLflow run",
        "" if best is None else write_best(ledger.spec, best, choice),
        None if best is None else kept_model(ledger, history, best, choice),
    )
