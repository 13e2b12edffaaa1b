"""Measurements that depend on the machine, as ratios. Not part of the test run; `make bench` runs them."""
