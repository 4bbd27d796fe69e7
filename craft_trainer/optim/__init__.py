"""Two gradients become one: torch only, no transformers, no lerobot."""
