"""Metrics: verdicts to estimates, one per file."""
