"""Studies from Python: run one, or ask for its trials one by one."""

from hpo_flows.api.running import early_workers, open_ledger, run, run_study

__all__ = ["early_workers", "open_ledger", "run", "run_study"]
