"""What a Keras script tunes: hyperparameters, the hypermodel they shape, the objective, and the space they span."""
