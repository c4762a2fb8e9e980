"""Mounted as `harness.trainers`; this folder is never imported under its own name."""

if __name__ != "harness.trainers":
    raise ImportError("this folder is mounted into the package: import harness.trainers")
