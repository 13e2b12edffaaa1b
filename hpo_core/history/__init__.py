"""The past of a study as strategies see it: trials, fidelities and imported observations."""
