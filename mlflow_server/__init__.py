"""The tracking server: the embedded one (sqlite and a folder) and how to look at it."""
