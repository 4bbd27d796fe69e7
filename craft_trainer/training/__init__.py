"""Parts of a training step and a run: the trainer, its retention passes, its settings and its records."""
