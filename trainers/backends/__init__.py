"""One backend a file: where the steps of `harness train` run. Each ends in the constant BACKEND.

`harness.trainers.train` resolves the run and passes it whole. Every backend calls the two halves of the objective,
`advantages` and `loss`, unchanged, and leaves the same run folder.
"""
