"""The retention terms: one a file, each with what it needs of an anchor."""
