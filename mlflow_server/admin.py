"""Checks and sets the password of MLflow's user ``admin``, of which the database holds a hash.

MLflow takes it from the environment only when it makes the user, at the first start. Both differ after a restore onto
another machine, or where one of them was changed; then whoever uses the secret is refused, Prefect's worker too.
"""

from __future__ import annotations

from sqlalchemy import text

# MLflow hashes with it. Its own store of users is not imported: only hpo_core.tracking knows mlflow.
from werkzeug.security import check_password_hash, generate_password_hash

from mlflow_server.database import Database

ADMIN = "admin"


def is_password(database: Database, password: str) -> bool:
    """Whether a password is admin's, or will be because the user does not exist yet."""
    found = _hash(database)
    return found is None or check_password_hash(found, password)


def set_password(database: Database, password: str) -> bool:
    """Give admin a password; returns whether there is such a user. A running server takes the old one for a minute."""
    if _hash(database) is None:
        return False
    engine = database.engine()
    try:
        with engine.begin() as connection:
            change = text("UPDATE users SET password_hash = :hash WHERE username = :name")
            connection.execute(change, {"hash": generate_password_hash(password), "name": ADMIN})
    finally:
        engine.dispose()
    return True


def _hash(database: Database) -> str | None:
    if not database.has("users"):
        return None
    rows = database.query("SELECT password_hash FROM users WHERE username = :name", name=ADMIN)
    return None if not rows else str(rows[0][0])
