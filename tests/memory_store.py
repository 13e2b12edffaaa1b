"""An in-memory double of the MLflow store, which can stop before and after every single operation."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from hpo_core.base.errors import InputError
from hpo_core.ledger.store import RUNNING, Dataset, Metric, Run, Version


class MemoryStore:
    """MLflow as the ledger sees it.

    Args:
        before: Called with the operation's name before it takes effect; may raise or switch to another flow.
        after: The same after it took effect, before the caller is answered.
        clock: Milliseconds; every call of it is a moment later.
    """

    uri = "memory://"

    def __init__(
        self,
        before: Callable[[str], None] = lambda operation: None,
        after: Callable[[str], None] = lambda operation: None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.before, self.after = before, after
        self._clock = clock or itertools.count(1_000_000).__next__
        self._ids = itertools.count()
        self.experiments_by_name: dict[str, str] = {}
        self.deleted_experiments: set[str] = set()
        self.runs: dict[str, Run] = {}
        self._points: dict[str, dict[str, tuple[int, int, float, float]]] = {}
        self._logged: dict[str, list[Metric]] = {}
        self.deleted: set[str] = set()
        self.artifacts: dict[tuple[str, str], bytes] = {}
        self.datasets: dict[str, set[tuple[str, str]]] = {}
        self.requests: list[str] = []
        self.version_log: dict[str, list[Version]] = {}
        self.aliases: dict[str, int] = {}

    def _begin(self, operation: str) -> None:
        self.before(operation)
        self.requests.append(operation)

    def with_patience(self, patience: float) -> Self:
        return self

    def hurry(self, on: bool = True) -> None:
        pass

    def ping(self) -> None:
        self._begin("ping")

    def experiment(self, name: str, *, create: bool, restore: bool = False, unlisted: bool = False) -> str | None:
        self._begin("experiment")
        if restore:
            self.deleted_experiments.discard(name)
        if name in self.deleted_experiments:
            raise InputError("experiment", f"{name!r} was deleted in MLflow", "restore it or choose another name")
        if name not in self.experiments_by_name:
            if not create:
                return None
            self.experiments_by_name[name] = str(len(self.experiments_by_name) + 1)
        self.after("experiment")
        return self.experiments_by_name[name]

    def experiments(self) -> list[str]:
        self._begin("experiments")
        return list(self.experiments_by_name.values())

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        self._begin("create_run")
        run = Run(f"r{next(self._ids):05d}", experiment, name, RUNNING, self._clock(), tags=dict(tags))
        self.runs[run.id] = run
        self.after("create_run")
        return run

    def claim(self, run: str, key: str, value: str) -> bool:
        self._begin("claim")
        won = self.runs[run].params.get(key, value) == value
        if won:
            self._change(run, params={**self.runs[run].params, key: value})
        self.after("claim")
        return won

    def log(self, run: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self._begin("log")
        old = self.runs[run]
        for key, value in params.items():
            assert old.params.get(key, value) == value, "a param is written once"
        self._logged.setdefault(run, []).extend(metrics)
        known = self._points.setdefault(run, {})
        for m in metrics:  # MLflow's latest value: of the highest step, then the latest time, then the larger one
            kept = math.copysign(sys.float_info.max, m.value) if math.isinf(m.value) else m.value
            value = -math.inf if math.isnan(m.value) else kept
            known[m.key] = max(known.get(m.key, (m.step, -1, value, kept)), (m.step, m.timestamp, value, kept))
        latest = {key: value for key, (*_, value) in known.items()}
        self._change(run, metrics={**old.metrics, **latest}, params={**old.params, **params}, tags={**old.tags, **tags})
        self.after("log")

    def log_dataset(self, run: str, dataset: Dataset, source: str) -> None:
        self._begin("log_dataset")
        self.datasets.setdefault(run, set()).add((dataset.name, dataset.digest))

    def set_status(self, run: str, status: str) -> None:
        self._begin("set_status")
        self._change(run, status=status, end=None if status == RUNNING else self._clock())
        self.after("set_status")

    def delete_run(self, run: str) -> None:
        self._begin("delete_run")
        self.deleted.add(run)
        self.after("delete_run")

    def restore_run(self, run: str) -> None:
        self._begin("restore_run")
        self.deleted.discard(run)

    def get(self, run: str) -> Run:
        self._begin("get")
        found = replace(self.runs[run], deleted=run in self.deleted)
        self.after("get")
        return found

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        ended: int | None = None,
        trash: bool = False,
    ) -> list[Run]:
        self._begin("search")
        found = [
            run
            for run in self._below(experiments, tags)
            if (run.id in self.deleted and run.status != RUNNING if trash else run.id not in self.deleted)
            and (since is None or run.start >= since)
            and (ids is None or run.id in ids)
            and (ended is None or (run.end is not None and run.end >= ended))
        ]
        self.after("search")
        return sorted(found, key=lambda run: run.start)

    def find(self, experiments: Sequence[str], query: str, field: str) -> list[Run]:
        """Of MLflow's filter language this store knows the empty filter alone."""
        assert not query
        return self.search(experiments, {})

    def metric_history(self, runs: Sequence[str], key: str, most: int) -> dict[str, list[Metric]]:
        self._begin("metric_history")
        logged = {run: [point for point in self._logged.get(run, []) if point.key == key] for run in runs}
        return {
            run: sorted(points, key=lambda point: (point.timestamp, point.step))
            for run, points in logged.items()
            if points
        }

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        self._begin("has_exactly")
        active = [run for run in self._below(experiments, tags) if run.id not in self.deleted and run.start < before]
        self.after("has_exactly")
        return len(active) == count

    def _below(self, experiments: Sequence[str], tags: Mapping[str, str]) -> list[Run]:
        return [
            run
            for run in self.runs.values()
            if run.experiment in experiments and all(run.tags.get(key) == value for key, value in tags.items())
        ]

    def upload(self, run: str, path: Path, folder: str) -> None:
        self._begin("upload")
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                self.artifacts[run, (Path(folder) / file.relative_to(path.parent)).as_posix()] = file.read_bytes()

    def download(self, run: str, path: str) -> bytes | None:
        self._begin("download")
        return self.artifacts.get((run, path))

    def fetch(self, run: str, path: str, folder: Path) -> Path | None:
        data = self.download(run, path)
        if data is None:
            return None
        (folder / Path(path).name).write_bytes(data)
        return folder / Path(path).name

    def discard(self, run: str, path: str) -> None:
        self._begin("discard")
        self.artifacts.pop((run, path), None)

    def champion(self, model: str) -> int | None:
        self._begin("champion")
        found = self.aliases.get(model)
        self.after("champion")
        return found

    def versions(self, model: str) -> list[Version]:
        self._begin("versions")
        found = list(self.version_log.get(model, []))
        self.after("versions")
        return found

    def publish(self, run: str, study_run: str, name: str, tags: Mapping[str, str]) -> str | None:
        self._begin("publish")
        return f"m-{run}"

    def register(
        self, model: str, run: str, path: str, tags: Mapping[str, str], description: str, logged: str | None = None
    ) -> Version:
        self._begin("register")
        log = self.version_log.setdefault(model, [])
        log.append(Version(max((each.number for each in log), default=0) + 1, run, dict(tags)))
        version = log[-1]
        self.after("register")
        return version

    def set_champion(self, model: str, number: int) -> None:
        self._begin("set_champion")
        self.aliases[model] = number
        self.after("set_champion")

    def tag_version(self, model: str, number: int, tags: Mapping[str, str]) -> None:
        self._begin("tag_version")
        log = self.version_log[model]
        self.version_log[model] = [
            replace(each, tags={**each.tags, **tags}) if each.number == number else each for each in log
        ]
        self.after("tag_version")

    def delete_version(self, model: str, number: int) -> None:
        self._begin("delete_version")
        self.version_log[model] = [each for each in self.version_log[model] if each.number != number]

    def fetch_version(self, model: str, number: int, folder: Path) -> Path | None:
        self._begin("fetch_version")
        return folder

    def _change(self, run: str, **fields: object) -> None:
        self.runs[run] = replace(self.runs[run], **fields)  # type: ignore[arg-type]
