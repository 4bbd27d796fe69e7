"""Modules for HuggingFace `evaluate`: numbers in, python floats out. They load no model and are Spaces of their own."""
