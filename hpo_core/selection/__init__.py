"""Decisions about trials: early stopping, the final choice and the comparison with the champion."""
