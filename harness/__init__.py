"""The referee: train a language model with FlowRL or a rival, evaluate it, report it."""

__version__ = "0.1.0"
