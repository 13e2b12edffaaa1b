"""A trial and its metrics under KerasTuner's names, as its documentation describes them."""

from __future__ import annotations

import math

import pytest

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.tuner.metrics import MetricHistory, MetricObservation, MetricsTracker
from hpo_flows.keras.tuner.trial import Trial, TrialStatus


def tracker() -> MetricsTracker:
    made = MetricsTracker()
    for step, (loss, accuracy) in enumerate([(0.9, 0.3), (0.4, 0.8), (0.5, 0.7)]):
        made.update("val_loss", loss, step)
        made.update("val_accuracy", accuracy, step)
    return made


def test_a_tracker_has_the_history_of_each_metric() -> None:
    found = tracker()
    assert found.exists("val_loss") and not found.exists("loss")
    assert (found.get_direction("val_loss"), found.get_direction("val_accuracy")) == ("min", "max")
    assert (found.get_best_value("val_loss"), found.get_best_step("val_loss")) == (0.4, 1)
    assert (found.get_best_value("val_accuracy"), found.get_last_value("val_accuracy")) == (0.8, 0.7)
    assert found.get_history("val_loss")[0] == MetricObservation([0.9], 0)
    statistics = found.get_statistics("val_loss")
    assert set(statistics) == {"min", "max", "mean", "median", "var", "std"}
    assert (statistics["mean"], statistics["std"]) == pytest.approx((0.6, 0.2160247))
    assert MetricsTracker.from_config(found.get_config()).get_config() == found.get_config()


def test_an_update_tells_whether_the_best_value_is_another_one() -> None:
    found = tracker()
    assert found.update("val_loss", 0.1, 3) and not found.update("val_loss", 0.2, 4)
    assert found.update("f_score", 0.2) and found.get_direction("f_score") == "min"  # which its name does not say
    found.set_history("f_score", [MetricObservation([0.5, 0.7], 1)])
    assert found.get_last_value("f_score") == pytest.approx(0.6)


def test_executions_are_averaged_at_each_step() -> None:
    history = MetricHistory("min")
    for step, values in enumerate([[1.0, 3.0], [1.5, 1.5]]):
        for value in values:
            history.update(value, step)
    assert (history.get_best_value(), history.get_best_step()) == (1.5, 1)
    assert history.get_history() == [MetricObservation([1.0, 3.0], 0), MetricObservation([1.5, 1.5], 1)]
    assert MetricHistory.from_config(history.get_config()).get_config() == history.get_config()


def test_nan_is_never_the_best() -> None:
    history = MetricHistory("max")
    history.update(math.nan, 0)
    history.update(0.5, 1)
    assert (history.get_best_value(), history.get_best_step()) == (0.5, 1)
    assert (
        MetricHistory().get_best_value() is MetricHistory().get_last_value() is MetricHistory().get_best_step() is None
    )
    assert MetricHistory().get_statistics() == {}


def test_metrics_that_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="unknown metric 'val_los'; there are: val_loss, val_accuracy"):
        tracker().get_history("val_los")
    with pytest.raises(InputError, match="there is a metric 'val_loss' already"):
        tracker().register("val_loss")
    with pytest.raises(InputError, match="'down' is neither 'min' nor 'max'"):
        MetricHistory("down")


def trial() -> Trial:
    hp = HyperParameters()
    hp.Int("units", 2, 16, default=4)
    made = Trial(hp, "03", TrialStatus.COMPLETED)
    made.metrics, made.score, made.best_step = tracker(), 0.4, 1
    return made


def test_a_trial_prints_itself(capsys: pytest.CaptureFixture[str]) -> None:
    trial().summary()
    assert capsys.readouterr().out == "Trial 03 summary\nHyperparameters:\nunits: 4\nScore: 0.4\n"
    Trial(HyperParameters(), "1", TrialStatus.FAILED, "it was too large").summary()
    assert capsys.readouterr().out == "Trial 1 summary\nHyperparameters:\ndefault configuration\nit was too large\n"


def test_a_trial_as_plain_data() -> None:
    state = trial().get_state()
    assert set(state) == {"trial_id", "hyperparameters", "metrics", "score", "best_step", "status", "message"}
    again = Trial.from_state(state)
    assert again.get_state() == state
    assert again.hyperparameters.get("units") == 4 and again.metrics.get_best_value("val_accuracy") == 0.8
