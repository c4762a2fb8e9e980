"""Values, protocols, errors, config, discovery, run folders, seeds and statistics."""
