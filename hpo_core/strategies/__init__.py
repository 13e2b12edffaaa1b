"""Strategies: which configurations a study tries next, and at which fidelity."""
