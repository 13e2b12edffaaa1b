"""The objective's side: its reference, the trial context it is called with, splits, metrics and results."""
