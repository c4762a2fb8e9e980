"""Studies: arms x seeds x checkpoints x tasks x temperatures from one base, every cell a run folder."""
