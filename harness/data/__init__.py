"""Dataset files: where they are, downloads, fingerprints, facts for the run record."""
