"""Graders of published papers and tools, reproduced with their faults."""
