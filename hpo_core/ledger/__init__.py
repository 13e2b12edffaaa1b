"""The ledger: stores trials and evaluations in MLflow so that any number of flows can share a study."""
