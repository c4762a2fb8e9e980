"""Reference answers that several tasks share."""
