"""What an objective keeps as files: of its own, or written here from a text, a table or a figure, as MLflow does.

All are uploaded at once when the trial has ended. pandas is imported by the method that needs it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpo_flows.objectives.messages import Artifact, FromObjective

PLOTLY_PAGE = (".html", ".htm")


class Artifacts:
    """The artifacts of a trial. A file logged again under its name replaces what it held, and is uploaded once.

    Args:
        outbox: The folder where they wait.
        send: Sends a message to the flow.
    """

    def __init__(self, outbox: Path, send: Callable[[FromObjective], None]) -> None:
        self._outbox, self._send, self._sent = outbox, send, 0
        self._written: dict[str, Path] = {}
        self._tables: dict[str, Any] = {}

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file, or a folder with its content, as an artifact of the trial's run.

        It is copied at once, so it may be changed or removed afterwards.

        Args:
            path: The file or folder.
            folder: The target folder below the run's artifacts.

        Raises:
            FileNotFoundError: There is nothing at ``path``.
            ValueError: ``folder`` leads out of the run's artifacts.
        """
        source = Path(os.path.abspath(path))  # resolves "..", which has no name to store it under
        target = self._place(source.name, folder)
        if source.is_dir():
            shutil.copytree(source, target, ignore=self._endless)
        else:
            shutil.copy2(source, target)
        written = Path(folder).as_posix()  # MLflow refuses "plots/", "./plots" and "plots//a"
        self._send(Artifact(str(target), "" if written == "." else written))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Keep a text as an artifact, like ``mlflow.log_text``.

        Args:
            text: The text.
            artifact_file: The file below the run's artifacts, such as ``notes/model.txt``.

        Raises:
            ValueError: ``artifact_file`` leads out of the run's artifacts, or names no file.
        """
        self._write(artifact_file, lambda path: path.write_text(text, encoding="utf-8"))

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """Keep a dictionary or a list as an artifact, like ``mlflow.log_dict``.

        Args:
            dictionary: Of values that JSON can hold; others are kept as text.
            artifact_file: The file; YAML if it ends with ``.yaml`` or ``.yml``, else JSON.

        Raises:
            ValueError: As for :meth:`log_text`.
        """
        plain = json.loads(json.dumps(dictionary, default=str))
        if artifact_file.endswith((".yaml", ".yml")):
            from ruamel.yaml import YAML

            yaml = YAML()
            yaml.default_flow_style = False
            self._write(artifact_file, lambda path: yaml.dump(plain, path))
        else:
            self.log_text(json.dumps(plain, indent=2), artifact_file)

    def log_table(self, data: Any, artifact_file: str) -> None:
        """Keep a table as an artifact, like ``mlflow.log_table``. Further calls with the same file append rows.

        Args:
            data: A pandas DataFrame, or a dictionary of columns.
            artifact_file: The file, with the ending ``.json`` or ``.parquet``.

        Raises:
            ValueError: As for :meth:`log_text`, or ``artifact_file`` has another ending.
        """
        import pandas as pd

        if not artifact_file.endswith((".json", ".parquet")):
            raise ValueError(f"the table {artifact_file!r} ends with neither .json nor .parquet")
        scalars = isinstance(data, Mapping) and all(
            isinstance(v, str) or not hasattr(v, "__len__") for v in data.values()
        )
        rows = pd.DataFrame([data] if scalars else data)
        earlier = self._tables.get(artifact_file)
        self._tables[artifact_file] = table = rows if earlier is None else pd.concat([earlier, rows], ignore_index=True)

        def write(path: Path) -> None:
            if artifact_file.endswith(".json"):
                table.to_json(path, orient="split", index=False, date_format="iso")
            else:
                table.to_parquet(path)

        self._write(artifact_file, write, kind="table")

    def log_figure(self, figure: Any, artifact_file: str, *, save_kwargs: Mapping[str, Any] | None = None) -> None:
        """Keep a figure of matplotlib or plotly as an artifact, like ``mlflow.log_figure``.

        Args:
            figure: The figure.
            artifact_file: The file. Its ending is the format; plotly's pictures, other than ``.html``, need kaleido.
            save_kwargs: Further arguments of the library's function that saves it.

        Raises:
            TypeError: It is a figure of neither.
            ValueError: As for :meth:`log_text`.
        """
        settings = dict(save_kwargs or {})
        if hasattr(figure, "savefig"):
            self._write(artifact_file, lambda path: figure.savefig(path, **settings))
        elif hasattr(figure, "write_html") and artifact_file.endswith(PLOTLY_PAGE):
            settings = {"include_plotlyjs": "cdn", "auto_open": False} | settings
            self._write(artifact_file, lambda path: figure.write_html(path, **settings))
        elif hasattr(figure, "write_image"):
            self._write(artifact_file, lambda path: figure.write_image(path, **settings))
        else:
            raise TypeError(f"{type(figure).__name__!r} is a figure of neither matplotlib nor plotly")

    def _write(self, artifact_file: str, write: Callable[[Path], object], kind: str = "") -> None:
        """Let a function write a file; it is announced the first time."""
        inside = Path(artifact_file)
        if inside.name in ("", "..") or artifact_file.endswith("/"):
            raise ValueError(f"{artifact_file!r} names no file")
        folder = "" if inside.parent == Path() else inside.parent.as_posix()
        if (known := self._written.get(artifact_file)) is not None:
            write(known)
            return
        target = self._place(inside.name, folder)
        write(target)
        self._written[artifact_file] = target
        self._send(Artifact(str(target), folder, kind))

    def _place(self, name: str, folder: str) -> Path:
        """A place in the outbox, each in a folder of its own.

        Raises:
            ValueError: The folder leads out of the run's artifacts.
        """
        if Path(folder).is_absolute() or ".." in Path(folder).parts or not {"\\", "\0"}.isdisjoint(folder):
            raise ValueError(f"the folder {folder!r} leads out of the run's artifacts")
        self._sent += 1
        target = self._outbox / str(self._sent) / name
        target.parent.mkdir(parents=True)
        return target

    def _endless(self, folder: str, names: list[str]) -> list[str]:
        """What a copy of a folder must skip to end at all: links to an enclosing folder, and the target itself."""
        here = Path(folder).resolve()
        paths = {name: (here / name).resolve() for name in names}
        return [name for name, path in paths.items() if here.is_relative_to(path) or path == self._outbox.resolve()]
