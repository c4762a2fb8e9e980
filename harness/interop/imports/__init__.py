"""Completions made by other tools, read into run folders: one file format per module."""
