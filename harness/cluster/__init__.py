"""Ray, for whatever runs on it: evaluation, grading, studies."""
