"""Names the extra of this package that brings a package which is not installed. Loads nothing."""

from __future__ import annotations

from importlib.util import find_spec

from hpo_core.base.errors import InputError

EXTRAS = {
    "keras": "keras",
    "tensorflow": "keras",
    "tensorboard": "keras",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "torch": "torch",
    "lightning": "lightning",
    "transformers": "transformers",
    "accelerate": "transformers",
    "dask": "dask",
    "distributed": "dask",
    "prefect_dask": "dask",
    "ray": "ray",
    "prefect_ray": "ray",
    "optuna": "optuna",
    "cmaes": "optuna",
    "boto3": "team",
    "botocore": "team",
    "psycopg": "postgres",
}
"""The extra that brings each optional package, by its import name."""


class ExtraMissing(InputError, ModuleNotFoundError):
    """An optional package is needed and not installed; the message says how to install it."""


def missing_extra(error: object, field: str = "packages") -> ExtraMissing | None:
    """What to raise for a failed import of an optional package; None if the import failed for another reason.

    Args:
        error: What an import raised.
        field: What needs the package, as a dotted path.

    >>> missing_extra(ModuleNotFoundError("No module named 'absent'", name="absent")) is None
    True
    """
    if isinstance(error, ExtraMissing):
        return error if field == "packages" else ExtraMissing(field, error.problem, error.remedy)
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    # Of a package that is there, a module may be missing for other reasons, such as another version.
    return _missing(package, field) if package in EXTRAS and not is_installed(package) else None


def require(package: str, field: str = "packages") -> None:
    """Check that an optional package is installed, without importing it.

    Raises:
        ExtraMissing: It is not.
    """
    if not is_installed(package):
        raise _missing(package, field)


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a module made by hand, without a specification
        return True


def install_command(extra: str) -> str:
    """
    >>> install_command("keras")
    'pip install "hpo-flows[keras]"'
    """
    return f'pip install "hpo-flows[{extra}]"'


def _missing(package: str, field: str) -> ExtraMissing:
    return ExtraMissing(
        field, f"the package {package.replace('_', '-')} is not installed", install_command(EXTRAS[package])
    )
