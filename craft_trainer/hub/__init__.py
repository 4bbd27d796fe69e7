"""The HuggingFace Hub: runs as repositories, their cards, and what goes wrong on the way. Reads files only."""
