"""Other evaluators: our tasks as theirs, and runs as their logs."""
