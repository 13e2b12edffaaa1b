"""What several strategies share: sampling, brackets, gradient descent and transfer from the past."""
