"""Texts for language and vision-language models: rows, tokens, batches, and anchors of them."""
