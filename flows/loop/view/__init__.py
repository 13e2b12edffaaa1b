"""What Prefect shows of a study: the flow run's log, its artifacts, and events on which automations act."""
