"""File formats of other tools: exports of tasks to evaluators and trainers, and of runs as logs."""
