"""The one seam to model families: what a batch is, its task loss, its features, its outputs."""
