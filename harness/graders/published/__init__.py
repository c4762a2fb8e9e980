"""Graders of published papers, reproduced as they are."""
