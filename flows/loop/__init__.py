"""The loop of a study: proposes, reserves and submits trials, then runs the final choice and the challenge."""
