"""How the trials of a tuner run: a search in processes or in this one, or a loop of the user's own."""
