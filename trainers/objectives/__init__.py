"""One loss a file; each ends in the constant OBJECTIVE.

In the formulas `policy` is the model in training (`current` in the code), `old` the policy before the step, which
sampled the completions, and `reference` the model before training. B completions, T completion positions, H the size of
a hidden state.
"""
