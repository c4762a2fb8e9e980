"""Ways of turning the rewards of a step into advantages, one per file: any of them goes with any surrogate.

A file ends in the constant ADVANTAGE, a subclass of `harness.core.protocols.Advantage`. An objective with the option
`advantage` takes it from `[objective.advantage] id = "..."`.
"""
