"""What is retained: one term a file, each with what it needs of an anchor."""
