"""The version of craft_trainer: its one home."""

__version__ = "0.1.0"
