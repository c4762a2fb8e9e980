"""Mounted as `harness.tasks`; this folder is never imported under its own name."""

if __name__ != "harness.tasks":
    raise ImportError("this folder is mounted into the package: import harness.tasks")
