"""Studies of many finished trials, made within seconds: the ledger makes a first trial, SQL copies its rows."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.ownership import now_ms
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.tags import Tag
from hpo_core.space.configuration import config_to_json
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import database_path

DIMENSIONS = 10
METRICS = [f"curve_{i}" for i in range(9)]


def ten_floats(name: str, trials: int = 1_000_000) -> StudySpec:
    """A study of ten floats, tuned by random search, whose trials log ten metrics."""
    space = {f"x{i}": {"type": "float", "low": 0, "high": 1} for i in range(DIMENSIONS)}
    return study_from(
        {
            "name": name,
            "objective": "nowhere:train",
            "metric": "loss",
            "direction": "minimize",
            "space": space,
            "strategy": "random",
            "stop": {"trials": trials},
        }
    )


def reserve(ledger: Ledger, history: History) -> Trial:
    trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
    assert trial is not None
    return trial


def finish(ledger: Ledger, trial: Trial) -> None:
    """Report what a short training would, in the ledger's two requests."""
    now, loss = now_ms(), sum(float(x) for x in trial.config.values())  # type: ignore[arg-type]
    metrics = [Metric(key, loss + i, now) for i, key in enumerate(METRICS)] + [Metric("loss", loss, now)]
    params = ledger.spec.search_space.to_params(trial.config)
    ledger.write(Report(trial.run_id, metrics, params, {Tag.RESULT: "loss"}, FINISHED))
    ledger.release(trial)


def populate(ledger: Ledger, database: str, trials: int) -> None:
    """Bring a new study to so many finished trials, a second apart, the last of them a minute ago.

    Args:
        ledger: The study, without any trial.
        database: The sqlite URI behind its store.
        trials: How many.
    """
    template = reserve(ledger, ledger.load())
    finish(ledger, template)
    first = now_ms() - 1_000 * (trials + 60)
    path = database_path(database)
    assert path is not None
    with sqlite3.connect(path, timeout=60) as connection:
        rows = {table: _rows(connection, table, template.run_id) for table in ("runs", "params", "tags")}
        values = {table: _rows(connection, table, template.run_id) for table in ("metrics", "latest_metrics")}
        times = {"start_time": first, "end_time": first + 900}
        connection.execute(
            "UPDATE runs SET start_time = :start_time, end_time = :end_time WHERE run_uuid = :id",
            times | {"id": template.run_id},
        )
        for number in range(1, trials):
            run, start = uuid.uuid4().hex, first + 1_000 * number
            (proposal,) = ledger.spec.propose(History(next_number=number), 1)
            params = ledger.spec.search_space.to_params(proposal.config)
            tags = _tags(ledger, number, proposal, start)
            loss = sum(float(x) for x in proposal.config.values())  # type: ignore[arg-type]
            _insert(
                connection,
                "runs",
                [
                    row
                    | {
                        "run_uuid": run,
                        "name": f"{ledger.spec.name}-{number:04d}",
                        "start_time": start,
                        "end_time": start + 900,
                    }
                    for row in rows["runs"]
                ],
            )
            _insert(
                connection, "params", [row | {"run_uuid": run, "value": params[row["key"]]} for row in rows["params"]]
            )
            _insert(
                connection,
                "tags",
                [row | {"run_uuid": run, "value": tags.get(row["key"], row["value"])} for row in rows["tags"]],
            )
            for table, copied in values.items():
                _insert(
                    connection,
                    table,
                    [
                        row
                        | {
                            "run_uuid": run,
                            "value": loss if row["key"] == "loss" else row["value"],
                            "timestamp": start + 899,
                        }
                        for row in copied
                    ],
                )
            connection.execute(
                "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
                (f"trial.{number}", run, ledger.claims_run),
            )
    connection.close()


def _tags(ledger: Ledger, number: int, proposal: Proposal, start: int) -> dict[str, str]:
    return {
        "hpo.number": str(number),
        "hpo.lease": str(start + 240_000),
        "hpo.config": config_to_json(proposal.config),
        "mlflow.runName": f"{ledger.spec.name}-{number:04d}",
    }


def _rows(connection: sqlite3.Connection, table: str, run: str) -> list[dict[str, Any]]:
    found = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run,))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def _insert(connection: sqlite3.Connection, table: str, rows: list[Mapping[str, Any]]) -> None:
    names = list(rows[0])
    places = ", ".join(f":{name}" for name in names)
    connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", rows)
