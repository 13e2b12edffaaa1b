"""What happens in one Keras training of one trial."""
