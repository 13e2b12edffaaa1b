"""One trial in one process: its attempts, its record in MLflow, early stopping and checkpoints."""
