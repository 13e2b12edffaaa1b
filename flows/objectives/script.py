"""The ``__main__`` of processes that ``multiprocessing`` spawns inside an objective that was given as a function.

Such processes look up the functions and classes that they receive here. They cannot run the user's script as their
``__main__``, since that would start the study again.
"""

from hpo_flows.objectives.by_value import name_of_script as __getattr__  # noqa: F401  (the hook for attributes that are not there)
