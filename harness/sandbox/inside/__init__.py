"""Code that runs inside a worker: the zygote, its isolation, and the driver of one untrusted program.

A worker is a bare interpreter without `harness` and installed packages, so these modules import only one another and
the standard library. They never hold an expected answer.
"""
