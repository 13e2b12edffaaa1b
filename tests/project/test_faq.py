"""Every answer of docs/faq.md is kept by a test: this names it, and has those that no other room has."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hpo_core.base.errors import StudyConflict
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.tracking.connection import connect
from hpo_flows.workers import worker
from tests.documents import ROOT
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, tune

KEPT: dict[str, list[str]] = {
    "The flow was killed, or the machine restarted. What now?": [
        "test_flow.py::test_a_killed_flow_goes_on_where_it_was"
    ],
    "How do I stop a study?": [
        "test_flow.py::test_a_killed_flow_goes_on_where_it_was",
        "test_faults.py::test_stop_from_another_terminal_ends_a_study_in_order",
    ],
    "It says that all trials are done.": ["test_flow.py::test_the_command_line_answers_scripts"],
    "Why does a trial say *lost*?": [
        "test_ledger.py::test_a_late_result_of_a_trial_thought_dead_is_taken",
        "test_doctor.py::test_stale_trials_are_told_and_then_reaped",
    ],
    "Can several flows work on one study?": ["test_faults.py::test_several_processes_tune_one_study"],
    "How many trials at a time?": [
        "test_resources.py::test_a_worker_has_its_share_and_so_has_the_one_that_replaces_it"
    ],
    "What may I change between two runs?": [
        "test_ledger.py::test_what_may_change_is_taken_and_told",
        "test_ledger.py::test_a_changed_space_is_refused_and_named",
        "test_faq.py::test_a_change_of_what_losses_mean_is_an_error_that_prints_the_difference",
    ],
    "How do I try a configuration of my own?": [
        "test_faq.py::test_a_study_of_one_slot_repeats_and_takes_a_configuration"
    ],
    "My training cannot be a function.": ["test_asking.py::test_a_loop_of_ones_own"],
    "Does it run in a notebook?": [
        "test_objective.py::test_an_objective_of_a_notebook_has_no_file_and_needs_none",
        "test_docs.py::test_a_python_block_runs",
    ],
    "What can one trial leave for the next in its process?": [
        "test_between.py::test_what_a_trial_leaves_behind_does_not_reach_the_next",
        "test_between.py::test_a_process_that_cannot_be_put_back_is_replaced",
        "test_between.py::test_an_mlflow_run_that_is_left_open_is_ended_and_keras_is_cleared",
        "test_between.py::test_what_an_import_sets_up_for_itself_stays",
    ],
    "Where does the output of my objective go?": [
        "test_between.py::test_of_much_output_the_beginning_and_the_end_are_kept",
        "test_between.py::test_lines_are_streamed_with_the_number_of_their_trial",
        "test_flow.py::test_what_trials_print_is_kept_with_their_runs",
    ],
    "Does it run on Windows?": [],  # it imports fcntl
    "Is a study reproducible?": [
        "test_faq.py::test_a_study_of_one_slot_repeats_and_takes_a_configuration",
        "test_explain.py::test_every_trial_of_a_parallel_study_can_be_replayed",
    ],
    "What seeds my training?": [
        "test_flow.py::test_a_trial_has_seed_scratch_and_artifacts_of_its_own",
        "test_checkpoints.py::test_a_study_goes_on_from_checkpoints_on_another_machine",
        "test_between.py::test_what_a_trial_leaves_behind_does_not_reach_the_next",
    ],
    "How do I average over seeds?": [
        "test_final.py::test_the_winner_is_named_by_its_folds_tested_once_and_can_be_served"
    ],
    "Where are my files?": [
        "test_docs.py::test_the_quickstart_runs_as_it_stands",
        "test_checkpoints.py::test_a_study_goes_on_from_checkpoints_on_another_machine",
    ],
    "sqlite or a server?": ["test_doctor.py::test_several_flows_on_sqlite_are_warned_of"],
    "How do I use our MLflow and Prefect servers?": [
        "test_doctor.py::test_a_server_is_checked_over_http",
        "test_doctor.py::test_a_store_that_does_not_answer_is_a_problem_and_ends_the_checks",
        "test_doctor.py::test_a_prefect_server_that_is_named_and_not_there_is_a_problem",
    ],
    "What if MLflow goes away while I train?": [
        "test_faults.py::test_the_mlflow_server_goes_away_and_comes_back",
        "test_flow.py::test_the_command_line_answers_scripts",
    ],
    "What if Prefect is down?": [
        "test_faults.py::test_a_prefect_server_that_is_named_and_not_there_is_one_line",
        "test_faults.py::test_prefects_server_is_lost_under_the_flow_which_goes_on_and_says_so_once",
        "test_engine.py::test_a_temporary_server_is_waited_for_and_done_without",
    ],
    "How do I delete a study?": [
        "test_studies.py::test_delete_says_how_to_restore",
        "test_faq.py::test_the_name_of_a_deleted_study_is_free",
        "test_docs.py::test_the_quickstart_runs_as_it_stands",
        "test_server.py::test_a_study_survives_the_loss_of_all_servers",
        "test_ledger.py::test_a_deleted_trial_leaves_a_gap_and_the_study_goes_on",
    ],
    "What does a trial cost on top of its training?": [
        "test_requests.py::test_a_trial_costs_four_requests_at_trial_one_thousand"
    ],
    "Why does it take seconds to start?": ["test_engine.py::test_no_server_is_started_early_where_one_may_be_named"],
    "May my objective log to MLflow itself?": [
        "test_flow.py::test_what_an_objective_logs_by_mlflow_itself_is_in_its_trials_run",
        "test_context.py::test_once_told_to_stop_a_trial_is_told_so_for_good",
    ],
    "Where is my model?": ["test_models.py::test_the_best_model_becomes_a_logged_model"],
    "My objective leaks memory, hangs, crashes.": [
        "test_faults.py::test_a_leaking_trial_is_ended_at_its_memory_limit",
        "test_flow.py::test_a_hanging_objective_is_ended_at_its_time_limit",
        "test_flow.py::test_a_killed_process_is_retried_in_the_same_run",
        "test_faq.py::test_a_worker_is_replaced_after_some_trials",
    ],
    "My metric is sometimes NaN.": [
        "test_ledger.py::test_a_result_that_is_not_finite_is_a_failure",
        "test_public_reports.py::test_what_failed_is_not_promoted",
    ],
    "How do I get the best model?": [
        "test_final.py::test_without_a_final_choice_new_incumbents_keep_their_model",
        "test_ending.py::test_the_best_trials_model_is_named_and_loads",
    ],
    "Something is wrong and I do not know what.": ["test_doctor.py::test_the_command_answers_people_and_scripts"],
    "Why does MLflow list folds among the trials?": [
        "test_ui.py::test_the_page_lists_this_studys_trials_best_first"
    ],
}  # fmt: skip


def test_every_answer_has_its_test() -> None:
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(.+?)\*\*(?=\s)", text, re.MULTILINE) == list(KEPT)
    tests = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    named = [each.split("::") for several in KEPT.values() for each in several]
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in tests.get(file, "")] == []


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_study_of_one_slot_repeats_and_takes_a_configuration() -> None:
    few: dict[str, Any] = {"parallel": 1, "strategy": {"name": "tpe", "start": 2}, "stop": {"trials": 5}}
    once, again = (tune(make_spec("facts", name=name, **few)).history.trials for name in ("once", "again"))
    assert [(t.config, t.loss, t.metrics["seed"]) for t in once] == [
        (t.config, t.loss, t.metrics["seed"]) for t in again
    ]
    mine = make_spec("facts", name="once", **few | {"stop": {"trials": 6}}, first=[{"x": 0.125}])
    assert tune(mine).history.trials[5].config == {"x": 0.125}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_worker_is_replaced_after_some_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.MAX_TRIALS == 50
    monkeypatch.setattr(worker, "MAX_TRIALS", 2)
    pids = [trial.metrics["pid"] for trial in tune(make_spec("facts", parallel=1, stop={"trials": 4})).history]
    assert pids[0] == pids[1] != pids[2] == pids[3]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metric": "accuracy"}, 'metric: "loss" -> "accuracy"'),
        ({"direction": "maximize"}, 'direction: "minimize" -> "maximize"'),
        ({"fidelity": {"name": "epochs", "min": 1, "max": 9}}, "fidelity"),
    ],
)
def test_a_change_of_what_losses_mean_is_an_error_that_prints_the_difference(change: dict[str, Any], told: str) -> None:
    open_study(connect(), make_spec())
    with pytest.raises(StudyConflict) as caught:
        open_study(connect(), make_spec(**change))
    assert told in str(caught.value)


def test_the_name_of_a_deleted_study_is_free() -> None:
    open_study(connect(), make_spec())
    find_study(connect(), "study").discard()
    assert open_study(connect(), make_spec(metric="accuracy")).spec.metric == "accuracy"
