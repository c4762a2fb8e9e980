"""Tables of reports, one per file; each file ends in the constant TABLE."""
