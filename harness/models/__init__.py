"""Bundled models, each a Hugging Face directory with its provenance, and the scripts that made them."""
