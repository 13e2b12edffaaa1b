"""Telling others what becomes of a study: JSON to an address, from threads of their own that can fail nothing.

What is sent stands in ``docs/notifications.md``. Each address has a thread and a queue of its own, so that one that
hangs holds up no other; an attempt has a timeout, a message a number of attempts, the queue a length, and the end of
the study a time that it waits for what is still to be sent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flows.report import metric_value, number
from hpo_core.study import Event, NotifySpec, StudySpec

if TYPE_CHECKING:
    from flows.api import StudyResult
    from flows.trial import Progress
    from hpo_core.history import History
    from hpo_core.ledger import Ledger
    from hpo_core.trial import Trial

log = logging.getLogger("hpo")

ATTEMPT_SECONDS = 10.0
ATTEMPTS = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""After an attempt that failed; doubled each time."""

QUEUE = 100
"""So many messages may wait for an address; beyond that the oldest new incumbents are dropped."""

END_SECONDS = 10.0
"""So long a study waits at its end for what is still to be sent."""

Payload = Mapping[str, Any]


class Receiver:
    """One address, and the thread that sends to it.

    Args:
        spec: The entry of the study file.
        url: Its address, with the environment's variables in it.
    """

    def __init__(self, spec: NotifySpec, url: str) -> None:
        self._spec, self._url = spec, url
        self._waiting: deque[Payload] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, daemon=True, name="hpo-notify")
        self._thread.start()

    def take(self, payload: Payload) -> None:
        """Send a message, if this address wants its event; returns at once."""
        if payload["event"] not in self._spec.on:
            return
        with self._changed:
            if len(self._waiting) >= QUEUE:
                self._waiting.popleft()
                log.warning("%s is too slow; a message to it is dropped", self._spec.label)
            self._waiting.append(payload)
            self._changed.notify_all()

    def close(self, deadline: float) -> None:
        """Wait until all is sent, or until a time of the monotonic clock."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            log.warning("%s does not answer; what is still to be sent to it is dropped", self._spec.label)

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
                # Not the error itself: it quotes the address, which may be a secret.
                problem, again = f"it answers {error.code}", error.code >= 500 or error.code in (408, 425, 429)
            except Exception as error:  # a name that does not resolve, a timeout, an answer that is no HTTP
                problem, again = type(error).__name__, True
            if not again or attempt == ATTEMPTS:
                log.warning("%s was not told that %s: %s", self._spec.label, payload["event"], problem)
                return
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def post(url: str, payload: Payload) -> None:
    """Send JSON once.

    Raises:
        urllib.error.HTTPError: The answer is no success.
        Exception: There is none; whatever urllib raises.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "hpo-flows"}
    request = urllib.request.Request(url, json.dumps(payload).encode(), headers, method="POST")  # noqa: S310
    urllib.request.urlopen(request, timeout=ATTEMPT_SECONDS).close()  # noqa: S310  (http and https alone, see Notifier)


class Notifier:
    """All addresses of a study.

    Args:
        spec: The study.
        run_id, link: The study's run in MLflow, and where its UI shows it; empty as long as there is none.
        owner: This process, as its trials name it.
    """

    def __init__(self, spec: StudySpec, run_id: str = "", link: str = "", owner: str = "") -> None:
        self._spec, self._run_id, self._link, self._owner = spec, run_id, link, owner
        self._receivers: list[Receiver] = []
        self._incumbent: Trial | None = None
        self._looked = False
        for i, entry in enumerate(spec.notify):
            try:
                self._receivers.append(Receiver(entry, entry.expanded()))
            except ValueError as error:
                log.warning("%s: notify.%d.url: %s; nobody is told there", spec.name, i, error)

    def observe(self, progress: Progress) -> None:
        """Tell of a new incumbent; a study that goes on does not tell of what was there before."""
        before, self._incumbent = self._incumbent, progress.history.incumbent
        looked, self._looked = self._looked, True
        best = self._incumbent
        # Of several flows that see it, the one whose trial it is tells of it.
        if not looked or best is None or best == before or best.owner != self._owner:
            return
        value = f"{self._spec.metric} {number(metric_value(self._spec, best))} (trial {best.number})"
        self.tell("new_incumbent", f"new incumbent: {value}", progress.history)

    def tell(self, event: Event, text: str, history: History | None = None, **facts: Any) -> None:
        """Send a message to all who want it; returns at once."""
        payload = self._payload(event, text, history) | facts
        for receiver in self._receivers:
            receiver.take(payload)

    def _payload(self, event: Event, text: str, history: History | None) -> dict[str, Any]:
        spec, best = self._spec, None if history is None else history.incumbent
        line = f"{spec.name}: {text}"
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # as Slack wants it
            line = line.replace(character, entity)
        payload: dict[str, Any] = {
            "event": event,
            "text": f"{line}\n{self._link}" if self._link else line,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "study": spec.name,
            "experiment": spec.experiment,
            "metric": spec.metric,
            "direction": spec.direction,
            "run_id": self._run_id,
            "url": self._link,
        }
        if history is not None:
            payload |= {
                "complete": len(history.complete),
                "failed": len(history.failed),
                "running": len(history.running),
                "value": metric_value(spec, best),
                "trial": None if best is None else best.number,
                "config": {} if best is None else dict(best.config),
            }
        return payload

    def close(self) -> None:
        """Wait a moment for what is still to be sent."""
        deadline = time.monotonic() + END_SECONDS
        for receiver in self._receivers:
            receiver.close(deadline)


@contextlib.contextmanager
def failures_told(notifier: Notifier) -> Iterator[Notifier]:
    """Tell of an error or a signal that ends the study, and let it go on its way; at the end, wait a moment."""
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
    """The addresses of an opened study."""
    from hpo_core.tracking import redact

    uri, run = redact(ledger.store.uri), ledger.study_run
    link = f"{uri}/#/experiments/{run.experiment}/runs/{run.id}" if uri.startswith("http") else ""
    return Notifier(ledger.spec, run.id, link, ledger.owner)


def tell_end(notifier: Notifier, ledger: Ledger, result: StudyResult) -> None:
    """Tell that a study has ended, unless it goes on elsewhere or somebody was told of this very end before.

    The study's claims remember it, which let one of several flows tell.
    """
    spec, history = ledger.spec, result.history
    if history.running or not spec.notify:
        return
    event: Event = "failed" if result.best is None else "finished"
    version = result.challenge.record.number if result.challenge is not None and result.challenge.record else 0
    best = "" if result.best is None else f"{result.best.number}"
    end = f"notify.{event}.{history.digest}.{best}.{version}"
    if not ledger.store.claim(ledger.claims_run, end, f"{ledger.owner} {time.time()}"):
        return
    told = f"{event} {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"
    ledger.store.log(ledger.study_run.id, [], {}, {"hpo.notified": told})
    facts: dict[str, Any] = {"reason": result.reason}
    if result.best is None:
        notifier.tell(event, f"failed: no trial gave a value ({result.reason})", history, **facts)
        return
    facts |= {"trial": result.best.number, "value": result.best_value, "config": dict(result.best_config)}
    text = f"finished: {result.reason}; {spec.metric} {number(result.best_value)} (trial {result.best.number})"
    if result.test_metrics:
        facts["test"] = dict(result.test_metrics)
    if result.challenge is not None and spec.champion is not None:
        from flows.champion import challenge_line

        facts["champion"] = challenge_line(result.challenge, spec.champion.model)
        text += f"; {facts['champion']}"
    notifier.tell(event, text, history, **facts)


def both(*observers: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """One observer that calls several."""

    def observe(progress: Progress) -> None:
        for each in observers:
            each(progress)

    return observe
