"""Plots of reports as plain SVG, without a library."""
