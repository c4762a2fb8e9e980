"""Helpers that tasks share."""
