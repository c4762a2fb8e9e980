"""Helpers that several advantages share. Not a plug-in: it has no constant ADVANTAGE."""
