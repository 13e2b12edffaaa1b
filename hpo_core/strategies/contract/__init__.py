"""The contract of strategies: what each of them must do, whoever wrote it."""
