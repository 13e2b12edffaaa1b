"""What a hostile name, file, address or tracking server can do: nothing but be refused, or skipped."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.trial import TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import FAILED, FINISHED, Run
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.study.file import load_study
from hpo_core.tracking.connection import connect
from hpo_core.tracking.credentials import redact
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_flows.cli.app import main
from hpo_flows.objectives.context import TrialContext
from tests.conftest import PATIENCE
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.memory_store import MemoryStore

ROOT = Path(__file__).parents[3]
SECRET = "s3cr3t"

STUDY = """
name: {name}
objective: tests.objectives:quick
metric: loss
direction: minimize
space: {{x: {{type: float, low: 0, high: 1}}}}
stop: {{trials: 2}}
"""


# -- names ------------------------------------------------------------------------------------------------------

NAMES = ["x' OR '1'='1", 'x" OR 1', "a\\b", "100%", "%25", "two\nlines", "nul\0", "`x`", "\x1b[31mred", " outer ", ""]
TAKE_A_STUDY = ["tune", "status", "best", "stop", "validate", "doctor"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("command", TAKE_A_STUDY)
def test_hostile_names_are_refused_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    Path("study.yaml").write_text(STUDY.format(name=json.dumps(name)))
    for study in ("study.yaml", name):
        if command == "validate" and study == name:
            continue  # takes files only
        monkeypatch.setattr(sys, "argv", ["hpo", command, "--", study])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert (end.value.code, printed.out) == (2, ""), printed
        told = printed.err.splitlines()
        assert told[-1].startswith("error: name: "), printed.err
        assert len(told) == 1 or (command == "tune" and len(told) == 2 and told[0].endswith(" ..."))  # what it reads
    assert not Path("mlflow.db").exists()  # refused before anything is asked


@pytest.mark.parametrize("name", ["x" * 201, "x" * 5_000])
def test_a_name_that_is_too_long_for_a_file_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hpo", "status", name])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: ")


def test_the_core_refuses_hostile_names_too() -> None:
    for name in NAMES:
        with pytest.raises(InputError, match=r"^name: "):
            find_study(MemoryStore(), name)


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/object/new:os.system ['touch pwned']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:hpo_flows.objectives.context.TrialContext {}",
        "!unknown x",
    ],
)
def test_tags_that_make_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(name=value))
    with pytest.raises(InputError, match="not a YAML file that can be read"):
        load_study(path)
    path.write_text(STUDY.format(name="x"))
    with pytest.raises(InputError, match="not YAML"):
        load_study(path, [f"name={value}"])
    assert not Path("pwned").exists()


# -- artifacts --------------------------------------------------------------------------------------------------


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def trial(tmp_path: Path, sent: list[dict[str, Any]]) -> TrialContext:
    scratch = tmp_path / "trial" / "scratch"
    scratch.mkdir(parents=True)
    outbox = tmp_path / "trial" / "outbox"
    return TrialContext(config={}, number=0, seed=0, fidelity=None, scratch=scratch, outbox=outbox, send=sent.append)


@pytest.mark.parametrize(
    "folder", ["../x", "..", "a/../../x", "/etc", "a/..", "a\\..\\..\\x", "..\\x", "C:\\x", "a\0b"]
)
def test_artifact_folders_cannot_climb_out(trial: TrialContext, sent: list[dict[str, Any]], folder: str) -> None:
    source = trial.scratch / "file"
    source.write_text("x")
    with pytest.raises(ValueError, match="leads out of the run's artifacts"):
        trial.log_artifact(source, folder)
    assert sent == []


def test_artifact_sources_are_copied_by_value_and_stay_in_the_outbox(
    trial: TrialContext, sent: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A symlink gives what it points to; later changes of the link, or of what it points to, change nothing."""
    outside = tmp_path / "outside.txt"
    outside.write_text("before")
    link, folder = trial.scratch / "link.txt", trial.scratch / "folder"
    link.symlink_to(outside)
    folder.mkdir()
    (folder / "inner").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    for source in (link, folder, folder / ".." / "link.txt", trial.scratch / "folder" / "."):
        trial.log_artifact(source)
    outside.write_text("after")
    outbox = (tmp_path / "trial" / "outbox").resolve()
    for message in sent:
        path = Path(message.path)
        assert not path.is_symlink() and path.resolve().is_relative_to(outbox)
        for file in [path, *path.rglob("*")]:
            assert not file.is_symlink()
            assert file.is_dir() or file.read_text() == "before"


@pytest.mark.parametrize("source", ["..", ".", "../.."])
def test_a_source_without_a_name_gets_the_one_of_its_folder(
    trial: TrialContext, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, source: str, tmp_path: Path
) -> None:
    deep = tmp_path / "one" / "two" / "three"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    trial.log_artifact(source)
    (message,) = sent
    assert Path(message.path).name == Path(source).resolve().name
    assert Path(message.path).parent.parent == tmp_path / "trial" / "outbox"


# -- what stands in MLflow --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> MlflowStore:
    return connect(f"sqlite:///{tmp_path_factory.mktemp('security')}/mlflow.db")


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    store = MemoryStore() if request.param == "memory" else request.getfixturevalue("sqlite")
    return open_study(store, make_spec(space={"x": {"type": "float", "low": 0, "high": 1}}))


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


NUMBERS = ["\uff11", "²", "10" + "0" * 29, "9" * 5_000, "-1", "1e3", "0x1", " 1", "01", "", "1\n", "true"]
CONFIGS = [
    pickle.dumps(Bomb(), 0).decode("ascii"),
    "!!python/object/apply:os.system ['touch pwned']",
    "[" * 4_900,
    '{"x":' * 900 + "1" + "}" * 900,
    '{"x": NaN}',
    '{"x": Infinity}',
    '{"x": 1e999}',
    '{"x": ' + "9" * 400 + "}",
    '{"x": ' + "9" * 4_900 + "}",
    '{"x": {"y": 1}}',
    '{"x": "\\ud800"}',
    '{"__class__": "os.system"}',
    "null",
    "\0",
]
OTHERS = [
    {"hpo.fidelity": "nan"},
    {"hpo.fidelity": "inf"},
    {"hpo.fidelity": "high"},
    {"hpo.schema": "2"},
    {"hpo.proposal": "{"},
    {"hpo.proposal": "null"},
    {"hpo.proposal": '["hpo.config"]'},
    {"hpo.proposal": "[" * 4_900},
    {"hpo.proposal": '{"a":' * 900 + "1" + "}" * 900, "hpo.schema": "2"},
    {"hpo.proposal": '{"config": {"x": NaN}}', "hpo.config": ""},
    {"hpo.proposal": '{"config": [0.5]}', "hpo.config": ""},
]


def hostile(ledger: Ledger, tags: dict[str, str], status: str = FINISHED) -> Run:
    """A run that anybody who may write to the tracking server can make."""
    good = {"hpo.role": "trial", "hpo.schema": "1", "hpo.number": "1", "hpo.config": '{"x": 0.5}', "hpo.lease": "1"}
    tags = {"mlflow.parentRunId": ledger.study_run.id} | good | tags
    run = ledger.store.create_run(ledger.study_run.experiment, "hostile", tags)
    if status != "RUNNING":
        ledger.store.set_status(run.id, status)
    return run


@pytest.mark.parametrize("status", ["RUNNING", FINISHED])
@pytest.mark.parametrize(
    "tags", [*({"hpo.number": n} for n in NUMBERS), *({"hpo.config": c} for c in CONFIGS), *OTHERS]
)
def test_hostile_trials_are_skipped_and_nothing_is_run(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], status: str
) -> None:
    monkeypatch.chdir(tmp_path)
    finish(ledger, reserve(ledger), 0.5)
    run = hostile(ledger, tags, status)
    again = open_study(ledger.store, ledger.spec)
    assert [trial.number for trial in again.load()] == [0]
    assert set(again.skipped) == {run.id}
    again.reap()
    assert reserve(again).number in (1, 2)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "tags",
    [
        {"hpo.lease": "²"},
        {"hpo.lease": "9" * 4_900},
        {"hpo.lease": "-1"},
        {"hpo.lease": "nan"},
        {"hpo.owner": "///"},
        {"hpo.owner": "../../etc/²/x"},
        {"hpo.parent": "²"},
        {"hpo.parent": "9" * 4_900},
        {"hpo.reason": "\x1b[31mred\nline"},
    ],
    ids=ascii,
)
def test_hostile_notes_break_nothing(ledger: Ledger, tags: dict[str, str]) -> None:
    host = str(ledger.owner).partition("/")[0]
    hostile(
        ledger, {"hpo.number": "0"} | {key: text.replace("../../etc", host) for key, text in tags.items()}, "RUNNING"
    )
    ledger.load()
    ledger.reap()
    assert [trial.state for trial in ledger.load()] == [TrialState.FAILED]


@pytest.mark.parametrize("attempt", ["²", "many", "-1", "1e3", "9" * 4_900])
def test_hostile_attempts_end_the_retries(ledger: Ledger, attempt: str) -> None:
    hostile(ledger, {"hpo.number": "0", "hpo.attempt": attempt, "hpo.lost": "died"}, FAILED)
    spec = make_spec(space={"x": {"type": "float", "low": 0, "high": 1}}, rerun_lost=3)
    (proposal,) = spec.propose(ledger.load(), 1)
    assert proposal.notes.get("strategy") != "retry"


@pytest.mark.parametrize("spec", [*CONFIGS, "{}", '{"name": "other"}'], ids=lambda text: ascii(text)[:20])
def test_a_hostile_specification_is_an_input_error(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger.study.log({"hpo.spec": spec})
    with pytest.raises(InputError, match="specification cannot be used"):
        find_study(ledger.store, ledger.spec.name)
    assert not Path("pwned").exists()


def test_a_study_without_claims_is_an_input_error(ledger: Ledger) -> None:
    tags = {key: text for key, text in ledger.study_run.tags.items() if key.startswith("hpo.") and key != "hpo.claims"}
    ledger.store.delete_run(ledger.study_run.id)
    run = ledger.store.create_run(ledger.study_run.experiment, ledger.spec.name, tags)
    ledger.store.log(run.id, [], {"study": ledger.spec.name}, {})
    with pytest.raises(InputError, match=r"hpo\.claims"):
        find_study(ledger.store, ledger.spec.name)


# -- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://127.0.0.1:5000/a", "http://127.0.0.1:5000/a"),
        (f"http://user:{SECRET}@127.0.0.1:9", "http://***@127.0.0.1:9"),
        (f"http://user:{SECRET}/{SECRET}@127.0.0.1:9", "http://***@127.0.0.1:9"),
        (f"http://user:{SECRET}#@[bad", "http://***@[bad"),
        (f"http://{SECRET}@127.0.0.1:9/x", "http://***@127.0.0.1:9/x"),
        (f"postgresql://h/db?user=me&password={SECRET}&x=1", "postgresql://h/db?user=me&password=***&x=1"),
        (f"postgresql://h/db?sslpassword={SECRET}", "postgresql://h/db?sslpassword=***"),
        (f"https://h/?access_token={SECRET}", "https://h/?access_token=***"),
        ("", ""),
    ],
)
def test_addresses_are_shown_without_secrets(uri: str, shown: str) -> None:
    assert redact(uri) == shown


ADDRESSES = [
    f"http://user:{SECRET}@127.0.0.1:9",
    f"http://user:{SECRET}/x@127.0.0.1:9",
    f"http://user:{SECRET}@[bad",
    f"http://user:{SECRET}@127.0.0.1:99999",
    f"postgresql://user:{SECRET}@127.0.0.1:1/db",
    f"postgresql://user:{SECRET}@127.0.0.1:port/db",
    f"postgresql://127.0.0.1:1/db?user=u&password={SECRET}",
    f"mysql://user:{SECRET}@127.0.0.1:1/db",
    f"nonsense://user:{SECRET}@127.0.0.1/db",
]
# All in one process: importing mlflow takes longer than all of them.
ALL_COMMANDS = """
import json, logging, os, sys, time
logging.basicConfig(level=logging.DEBUG)
from hpo_flows.cli import app as cli
import hpo_core.tracking.connection as embedded
embedded.CONNECT_SECONDS = 0.2
addresses, commands = map(json.loads, sys.argv[1:])
for number, address in enumerate(addresses):
    os.environ["MLFLOW_TRACKING_URI"] = address
    for command in commands:
        sys.argv = ["hpo", *command.split()]
        started = time.monotonic()
        try:
            cli.main()
        except SystemExit as end:
            print("CODE", number, sys.argv[1], end.code, time.monotonic() - started < 300, flush=True)
"""
COMMANDS = ["tune study.yaml", "status study.yaml", "status x --json", "best x", "stop x", "doctor x", "doctor --json"]


@pytest.mark.slow
def test_secrets_in_addresses_reach_nobody(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.format(name="x"))
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMMANDS, json.dumps(ADDRESSES), json.dumps(COMMANDS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert SECRET not in done.stdout
    assert "Traceback" not in done.stdout
    codes = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("CODE ")]
    assert len(codes) == len(ADDRESSES) * len(COMMANDS)
    for number, command, code, soon in codes:
        assert code == "1" if command == "doctor" else code in ("2", "3"), (ADDRESSES[int(number)], command, code)
        assert soon == "True", (ADDRESSES[int(number)], command)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text(errors="ignore")]


def test_secrets_stay_out_of_errors_and_of_what_is_printed(tmp_path: Path) -> None:
    from hpo_core.history.history import History
    from hpo_flows.results import StudyResult

    result = StudyResult(make_spec(), History(), "", f"http://user:{SECRET}@127.0.0.1:9", "run")
    assert SECRET not in repr(result)
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert isinstance(store, MlflowStore)
    store.uri = f"http://user:{SECRET}@127.0.0.1:9"
    assert SECRET not in repr(store)

    def fail() -> None:
        raise RuntimeError(f"cannot reach http://user:{SECRET}@127.0.0.1:9/api")

    with pytest.raises(Exception, match="cannot reach") as caught:
        store._call(fail)
    assert SECRET not in str(caught.value)
