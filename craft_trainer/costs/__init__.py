"""Measurements of `craft-trainer bench`: seconds, memory and bytes, side by side in one run."""
