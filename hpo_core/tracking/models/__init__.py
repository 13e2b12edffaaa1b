"""Trained models in MLflow: saved by its flavours, with requirements, and linked as its logged models."""

from hpo_core.tracking.models.flavors import FLAVORS, check_kind, load_model, save_model
from hpo_core.tracking.models.requirements import requirement_of

__all__ = ["FLAVORS", "check_kind", "load_model", "requirement_of", "save_model"]
