"""The champion: compares a study's winner with the served model and decides on its promotion."""
