"""The tracking client: connects to MLflow, retries requests and implements the ledger's store."""
