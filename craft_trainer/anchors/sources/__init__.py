"""Sources of anchors: one file for each, and what perturbs and mixes them."""
