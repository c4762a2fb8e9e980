"""Generate the reference pages of the documentation site from the code, so that they cannot drift from it."""
