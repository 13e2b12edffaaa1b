"""Runs the command ``hpo`` as ``python -m hpo_flows.cli``, for when it is not on the PATH."""

from hpo_flows.cli.app import main

main()
