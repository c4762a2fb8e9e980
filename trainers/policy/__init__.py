"""The model in training: forward passes, log-probabilities, adapters, precision."""
