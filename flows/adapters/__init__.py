"""What the callbacks and loops for other libraries' trainings share."""
