"""One file per strategy; make.py registers them by name."""
