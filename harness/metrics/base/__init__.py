"""Helpers that metrics share."""
