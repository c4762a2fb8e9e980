"""Loading models and tokenizers, chat templates, and the bundled model."""
