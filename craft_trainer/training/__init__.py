"""What a step and a run are made of: the trainer, its retention passes, its settings and its records."""
