"""The command init, and the files that it writes: an objective and a study of each kind."""
