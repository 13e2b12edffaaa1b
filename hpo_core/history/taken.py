"""Says which configurations a study has tried or is about to."""

from __future__ import annotations

from hpo_core.history.history import History


class Taken:
    """The identities of a history, and of what was proposed since; without a copy, since trials may be many."""

    def __init__(self, history: History) -> None:
        self._known, self._new = history.identities, set[str]()

    def __contains__(self, identity: object) -> bool:
        return identity in self._new or identity in self._known

    def add(self, identity: str) -> None:
        self._new.add(identity)
