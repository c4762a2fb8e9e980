"""One table a file; each ends in the constant TABLE."""
