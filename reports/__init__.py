"""Mounted as `harness.reports`; this folder is never imported under its own name."""

if __name__ != "harness.reports":
    raise ImportError("this folder is mounted into the package: import harness.reports")
