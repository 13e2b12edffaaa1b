"""What the other rooms share: folders, the progress of a study, and signals."""
