"""Statistics: intervals of estimates, and paired tests."""
