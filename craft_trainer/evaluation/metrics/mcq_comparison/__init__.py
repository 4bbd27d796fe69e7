"""Two models on the same items: what may be concluded; a comparison for `evaluate`."""
