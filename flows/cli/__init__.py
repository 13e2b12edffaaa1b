"""The command line: the ``hpo`` command, schedules and the doctor."""
