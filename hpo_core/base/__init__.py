"""Shared foundations: errors, seeding, safe arithmetic and what MLflow can store."""
