"""Defines the exceptions by which ``build_model``, ``fit`` and ``run_trial`` say how a trial or a search ends."""

from __future__ import annotations


class FailedTrialError(Exception):
    """Ends a trial as failed: it is not tried again, and the search goes on."""

    retry = False


class FatalError(Exception):
    """Ends the search."""


class FatalValueError(FatalError, ValueError):
    """Ends the search: a value cannot be used."""


class FatalTypeError(FatalError, TypeError):
    """Ends the search: something is of the wrong type."""


class FatalRuntimeError(FatalError, RuntimeError):
    """Ends the search: something went wrong."""
