"""Completion to verdict, one grader a file."""
