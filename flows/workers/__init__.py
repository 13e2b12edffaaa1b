"""The worker processes that run the objective: their pool, jobs, channel, output and resources."""
