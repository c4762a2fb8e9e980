"""The run folder: its files, how they are written, read and indexed."""
