"""Helpers of the commands: arguments that several share, and output."""
