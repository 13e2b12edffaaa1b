"""Studies of many finished trials, made within seconds: the ledger makes a first trial, SQL copies its rows."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo_core.base.seeding import trial_rng
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.ownership import now_ms
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.tags import SCHEMA, Tag, fold
from hpo_core.space.configuration import Config, config_to_json
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import database_path

DIMENSIONS = 10
NAMES = [f"x{i}" for i in range(DIMENSIONS)]

METRICS = [f"curve_{i}" for i in range(9)]

VALUES = ("metrics", "latest_metrics")

COPIED = ("runs", "params", "tags", *VALUES)


def ten_floats(name: str, trials: int = 1_000_000) -> StudySpec:
    """A study of ten floats, tuned by random search, whose trials log ten metrics."""
    space = {name: {"type": "float", "low": 0, "high": 1} for name in NAMES}
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
        for pragma in ("synchronous = OFF", "cache_size = -500000"):  # ids are random: all pages of an index are needed
            connection.execute(f"PRAGMA {pragma}")
        copied = {table: _rows(connection, table, template.run_id) for table in COPIED}
        times = {"start_time": first, "end_time": first + 900}
        connection.execute(
            "UPDATE runs SET start_time = :start_time, end_time = :end_time WHERE run_uuid = :id",
            times | {"id": template.run_id},
        )
        for some in batched(range(1, trials), 500):
            rows: dict[str, list[dict[str, Any]]] = {table: [] for table in (*COPIED, "claims")}
            for number in some:
                for table, own in _trial_rows(ledger, copied, number, first + 1_000 * number).items():
                    rows[table] += own
            for table, own in rows.items():
                _insert(connection, "params" if table == "claims" else table, own)
    connection.close()


def _trial_rows(
    ledger: Ledger, copied: Mapping[str, list[dict[str, Any]]], number: int, start: int
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one trial, by table; its claim is a param of another run."""
    config = dict(zip(NAMES, trial_rng(0, number).random(DIMENSIONS).round(12).tolist(), strict=True))
    params, tags = ledger.spec.search_space.to_params(config), _tags(ledger, number, config, start)
    run, loss = uuid.uuid4().hex, sum(config.values())
    name = f"{ledger.spec.name}-{number:04d}"
    times = {"start_time": start, "end_time": start + 900}
    found = {
        "runs": [row | times | {"run_uuid": run, "name": name} for row in copied["runs"]],
        "params": [row | {"run_uuid": run, "value": params[row["key"]]} for row in copied["params"]],
        "tags": [row | {"run_uuid": run, "value": tags.get(row["key"], row["value"])} for row in copied["tags"]],
        "claims": [{"key": f"trial.{number}", "value": run, "run_uuid": ledger.claims_run}],
    }
    for table in VALUES:
        found[table] = [
            row | {"run_uuid": run, "value": loss if row["key"] == "loss" else row["value"], "timestamp": start + 899}
            for row in copied[table]
        ]
    return found


def batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _tags(ledger: Ledger, number: int, config: Config, start: int) -> dict[str, str]:
    told = {"schema": SCHEMA, "seed": ledger.spec.seed, "history": f"{number:016x}", "config": config_to_json(config)}
    return {
        "hpo.number": str(number),
        "hpo.lease": str(start + 240_000),
        "mlflow.runName": f"{ledger.spec.name}-{number:04d}",
        **fold(told),
    }


def _rows(connection: sqlite3.Connection, table: str, run: str) -> list[dict[str, Any]]:
    found = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run,))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    names = list(rows[0])
    places = ", ".join(f":{name}" for name in names)
    connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", rows)
