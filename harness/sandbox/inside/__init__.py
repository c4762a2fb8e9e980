"""What runs inside a worker: the zygote, the walls it raises, and the driver of one untrusted program.

A worker is a bare interpreter without `harness` and without anything installed, so these modules import one another
and the standard library alone, and never hold an expected answer.
"""
