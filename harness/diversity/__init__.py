"""Diversity of stored runs: measures at equal numbers of samples, a judge of strategies, and tests of the measures."""
