"""Helpers that several objectives share. Not a plug-in: it has no constant OBJECTIVE."""
