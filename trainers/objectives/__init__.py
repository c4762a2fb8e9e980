"""One loss a file; each ends in the constant OBJECTIVE."""
