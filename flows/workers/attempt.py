"""Both sides of one attempt at a trial, wherever it trains: the flow's side supervises, the objective's side trains."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import missing_extra
from hpo_core.tracking.trial_run import Logged, joined
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import (
    Answer,
    Artifact,
    DatasetUsed,
    Done,
    Ended,
    Failed,
    FoldScore,
    FromObjective,
    LoggedByMlflow,
    Message,
    NotKept,
    Report,
    Use,
)
from hpo_flows.objectives.result import MissingMetric, as_result
from hpo_flows.workers.channel import shown
from hpo_flows.workers.gpu import out_of_memory
from hpo_flows.workers.job import Job, TrialFailed

OUT_OF_GPU_MEMORY = "out of GPU memory"
"""How the reason of a trial begins that a GPU had no memory for."""

# -- the flow's side ------------------------------------------------------------------------------------------------


def supervise(
    receive: Callable[[], Message | None],
    reply: Callable[[Answer], object],
    on_message: Callable[[FromObjective], bool | None],
    on_tick: Callable[[], None],
) -> Ended:
    """Handle the messages of an attempt until it ends.

    Args:
        receive: Returns the next message, or None if none came for a moment.
        reply: Sends an answer to the objective, which waits for it.
        on_message, on_tick: As for :meth:`hpo_flows.workers.worker.Worker.run`.

    Raises:
        Exception: Whatever the arguments raise.
    """
    while True:
        match message := receive():
            case Ended():
                return message
            case Report(milestone=int()) | FoldScore(asks=True):
                reply(Answer(on_message(message) is not False))
            case Report() | FoldScore() | Artifact() | NotKept() | DatasetUsed() | LoggedByMlflow() | Use():
                on_message(message)
        on_tick()


def result_of(ended: Ended) -> dict[str, float]:
    """The metrics that an attempt has returned.

    Raises:
        TrialFailed: It returned none.
    """
    match ended.outcome:
        case Done(metrics):
            return dict(metrics)
        case Failed() as failed:
            raise TrialFailed(**vars(failed))
    raise AssertionError(f"an attempt does not end with {ended.outcome}")


# -- the objective's side -------------------------------------------------------------------------------------------


class Attempt:
    """A trial's messages and answers while it trains.

    If a thread of the objective outlives the attempt, its messages are dropped and it is told to stop.

    Args:
        send: Sends a message to the flow's side.
    """

    def __init__(self, send: Callable[[Message], object]) -> None:
        self._send = send
        self.answers: SimpleQueue[bool] = SimpleQueue()
        self.over = False

    def send(self, message: Message) -> None:
        if not self.over:
            self._send(message)

    def answer(self) -> bool:
        """Wait for the flow's answer: whether to continue training."""
        return not self.over and self.answers.get()

    def end(self) -> None:
        self.over = True
        self.answers.put(False)


@contextlib.contextmanager
def logging_to_run(job: Job, attempt: Attempt) -> Iterator[None]:
    """Direct what the objective logs by MLflow itself into the trial's run, and report it to the flow."""
    if job.run is None:
        yield
        return
    with joined(job.run) as logged:
        yield
    if logged != Logged():
        attempt.send(LoggedByMlflow(logged))


@contextlib.contextmanager
def _heap_apart() -> Iterator[None]:
    """Exclude what existed before the training from garbage collections.

    Keras collects all garbage after each training. Beside TensorFlow, MLflow and Prefect that takes half a second, and
    finds nothing: what a training leaves is among what it has made.
    """
    if gc.get_freeze_count():  # the user's own doing
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def train(job: Job, function: Callable[..., Any], attempt: Attempt) -> Done | Failed:
    """Call the objective with the trial, and check what it returns."""
    context = TrialContext(**job.given(attempt.send, attempt.answer))
    try:
        with _heap_apart():
            returned = function(context)
        context.finish_checkpoint()
    except InputError as error:
        return Failed(str(error), details=traceback.format_exc(), blamed_key=error.field)
    except ImportError as error:
        if (missing := missing_extra(error, "objective")) is None:
            return Failed(shown(error), retry=True, details=traceback.format_exc())
        return Failed(str(missing), details=traceback.format_exc(), blamed_key=missing.field)
    except SystemExit as error:
        return Failed(f"the objective called sys.exit({error.code})", retry=True)
    except BaseException as error:
        if out_of_memory(error):
            # Not tried again here: it would meet the same neighbours and the same share.
            return Failed(f"{OUT_OF_GPU_MEMORY}: {shown(error)}", details=traceback.format_exc())
        retry = getattr(error, "retry", True) is not False  # which a KerasTuner script's FailedTrialError says
        return Failed(shown(error), retry=retry, details=traceback.format_exc())
    finally:
        attempt.send(context.use)
    try:
        metrics = as_result(returned, list(job.metrics), context.reported)
        if job.objective.needs_hypergradient:
            context.check_hypergradient(metrics)
    except ValueError as error:
        key = "metric" if len(job.metrics) == 1 else "metrics"
        return Failed(str(error), blamed_key=key if isinstance(error, MissingMetric) else "")
    if job.beats(metrics):
        context.finish_best()
    return Done(metrics)
