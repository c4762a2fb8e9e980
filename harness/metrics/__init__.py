"""Verdicts to estimates, one metric a file."""
