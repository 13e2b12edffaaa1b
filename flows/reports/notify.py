"""Sends notifications about a study as JSON to HTTP addresses, from threads whose errors cannot fail the study.

``docs/how-to/notifications.md`` describes the messages. Each address has its own thread and queue, so that one that
hangs does not delay the others. Limits apply to the time of an attempt, the attempts per message, the length of the
queue, and the time that the end of the study waits for unsent messages.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hpo_core.ledger.tags import Tag
from hpo_core.study.sections import Event, NotifySpec
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.front import front_facts, goal_facts
from hpo_flows.reports.links import run_url
from hpo_flows.reports.text import best_line, challenge_line, metric_value, metric_values, number, outcome_text

if TYPE_CHECKING:
    from hpo_core.history.history import History
    from hpo_core.history.trial import Trial
    from hpo_core.ledger.ledger import Ledger
    from hpo_flows.base.progress import Outcome, Progress


log = logging.getLogger("hpo")

ATTEMPT_SECONDS = 10.0

ATTEMPTS = 6

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""The pauses in seconds after a failed attempt; doubled each time."""

QUEUE = 100
"""How many messages may wait for an address; beyond that the oldest messages about incumbents are dropped."""

END_SECONDS = 10.0
"""How long a study waits at its end for unsent messages."""

Payload = Mapping[str, Any]


class Receiver:
    """One address, and the thread that sends to it.

    Args:
        spec: The entry of the study file.
        url: Its address, with environment variables expanded.
    """

    def __init__(self, spec: NotifySpec, url: str) -> None:
        self._spec, self._url = spec, url
        self._waiting: deque[Payload] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, daemon=True, name="hpo-notify")
        self._thread.start()

    def take(self, payload: Payload) -> None:
        """Queue a message, if this address wants its event; returns at once."""
        if payload["event"] not in self._spec.on:
            return
        with self._changed:
            if len(self._waiting) >= QUEUE:
                self._waiting.popleft()
                log.warning("%s is too slow; a message to it is dropped", self._spec.label)
            self._waiting.append(payload)
            self._changed.notify_all()

    def close(self, deadline: float) -> None:
        """Wait until all messages are sent, at most until a deadline on the monotonic clock."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            log.warning("%s does not respond; what is still to be sent to it is dropped", self._spec.label)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if not self._open:
                        return
                    self._changed.wait()
                payload = self._waiting.popleft()
            self._send(payload)

    def _send(self, payload: Payload) -> None:
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                post(self._url, payload)
                return
            except urllib.error.HTTPError as error:
                # Do not log the error itself: it quotes the address, which may be a secret.
                problem, again = f"it responds with {error.code}", error.code >= 500 or error.code in (408, 425, 429)
            except Exception as error:  # name resolution, a timeout, a reply that is not HTTP
                problem, again = type(error).__name__, True
            if not again or attempt == ATTEMPTS:
                log.warning("%s was not told that %s: %s", self._spec.label, payload["event"], problem)
                return
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """Rejects redirects: urllib would follow them with a request without the message."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Unredirected)


def post(url: str, payload: Payload) -> None:
    """Send JSON once; NaN and infinity become null.

    Raises:
        urllib.error.HTTPError: The response is not a success.
        Exception: There is no response; whatever urllib raises.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "hpo-flows"}
    body = json.dumps(_representable(payload), allow_nan=False).encode()
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  (http and https, see NotifySpec)
    _OPENER.open(request, timeout=ATTEMPT_SECONDS).close()


def _representable(value: Any) -> Any:
    """The value with NaN and infinity replaced, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _representable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_representable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Notifier:
    """Sends a study's notifications to all its addresses.

    Args:
        spec: The study.
        run_id, link: The study's run in MLflow, and its address in MLflow's UI; empty as long as there is none.
        owner: This process, as named in its trials' runs.
    """

    def __init__(self, spec: StudySpec, run_id: str = "", link: str = "", owner: str = "") -> None:
        self._spec, self._run_id, self._link, self._owner = spec, run_id, link, owner
        self._receivers: list[Receiver] = []
        self._front: tuple[Trial, ...] = ()
        self._looked = False
        for i, entry in enumerate(spec.notify):
            try:
                self._receivers.append(Receiver(entry, entry.expanded()))
            except ValueError as error:
                log.warning("%s: notify.%d.url: %s; no notifications are sent there", spec.name, i, error)

    def observe(self, progress: Progress) -> None:
        """Report a new incumbent, or a new point of the front, but not what a resumed study already had."""
        before, self._front = {trial.number for trial in self._front}, progress.history.front
        looked, self._looked = self._looked, True
        # If several flows see it, only the one that owns the trial reports it.
        new = [trial for trial in self._front if trial.number not in before and trial.owner == self._owner]
        for trial in new if looked else ():
            what = "new on the front" if self._spec.metrics else "new incumbent"
            said = f"{what}: {outcome_text(self._spec, trial)} (trial {trial.number})"
            self.tell("new_incumbent", said, progress.history, **self._about(trial))

    def tell(self, event: Event, text: str, history: History | None = None, **facts: Any) -> None:
        """Send a message to all addresses that want its event; returns at once."""
        payload = self._payload(event, text, history) | facts
        for receiver in self._receivers:
            receiver.take(payload)

    def _payload(self, event: Event, text: str, history: History | None) -> dict[str, Any]:
        spec, best = self._spec, None if history is None else self._spec.stands_for(history.front)
        line = f"{spec.name}: {text}"
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # Slack requires it
            line = line.replace(character, entity)
        payload: dict[str, Any] = {
            "event": event,
            "text": f"{line}\n{self._link}" if self._link else line,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "study": spec.name,
            "experiment": spec.experiment,
            **goal_facts(spec),
            "run_id": self._run_id,
            "url": self._link,
        }
        if history is not None:
            payload |= {
                "complete": len(history.complete),
                "failed": len(history.failed),
                "running": len(history.running),
                **self._about(best),
                **front_facts(spec, history),
            }
        return payload

    def _about(self, trial: Trial | None) -> dict[str, Any]:
        """What a message says of a trial."""
        several = {"values": metric_values(self._spec, trial)} if self._spec.metrics else {}
        return {
            "value": metric_value(self._spec, trial),
            **several,
            "trial": None if trial is None else trial.number,
            "config": {} if trial is None else dict(trial.config),
        }

    def close(self) -> None:
        """Wait a limited time for unsent messages."""
        deadline = time.monotonic() + END_SECONDS
        for receiver in self._receivers:
            receiver.close(deadline)


@contextlib.contextmanager
def reporting_failures(notifier: Notifier) -> Iterator[Notifier]:
    """Report an error or a signal that ends the study, and re-raise it. At the end, wait for unsent messages."""
    try:
        yield notifier
    except KeyboardInterrupt as stopped:
        reason = f"stopped by {stopped.args[0] if stopped.args else 'SIGINT'}"
        notifier.tell("failed", f"failed: {reason}", reason=reason)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:1000]
        notifier.tell("failed", f"failed: {reason}", reason=reason)
        raise
    finally:
        notifier.close()


def notifier_of(ledger: Ledger) -> Notifier:
    """The notifier of an opened study."""
    run = ledger.study_run
    return Notifier(ledger.spec, run.id, run_url(ledger.store.uri, run.experiment, run.id), ledger.owner)


def tell_end(notifier: Notifier, ledger: Ledger, result: Outcome) -> None:
    """Report that a study has ended, unless another flow still works on it or this end was already reported.

    The study's claims record the report, so that only one of several flows sends it.
    """
    spec, history = ledger.spec, result.history
    if history.running or not spec.notify:
        return
    event: Event = "failed" if result.best is None else "finished"
    version = result.challenge.record.number if result.challenge is not None and result.challenge.record else 0
    best = "" if result.best is None else f"{result.best.number}"
    end = f"notify.{event}.{history.digest}.{best}.{version}"
    if not ledger.claim(end, f"{ledger.owner} {time.time()}"):
        return
    notified = f"{event} {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"
    ledger.study.log({Tag.NOTIFIED: notified})
    facts: dict[str, Any] = {"reason": result.reason}
    if result.best is None:
        notifier.tell(event, f"failed: no trial gave a value ({result.reason})", history, **facts)
        return
    facts |= {"trial": result.best.number, "config": dict(result.best_config)}
    text = f"finished: {result.reason}; {best_line(spec, history, result.best)}"
    if spec.metrics:
        facts["values"] = dict(result.best_values)
    else:
        facts["value"] = result.best_value
        text = f"finished: {result.reason}; {spec.metric} {number(result.best_value)} (trial {result.best.number})"
    if result.test_metrics:
        facts["test"] = dict(result.test_metrics)
    if result.challenge is not None and spec.champion is not None:
        facts["champion"] = challenge_line(result.challenge, spec.champion.model)
        text += f"; {facts['champion']}"
    notifier.tell(event, text, history, **facts)


def both(*observers: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """One observer that calls several."""

    def observe(progress: Progress) -> None:
        for each in observers:
            each(progress)

    return observe
