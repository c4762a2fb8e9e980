"""Imported before verl: registers the platform of a processor."""

from verl_cpu import use_cpu

use_cpu()
