"""Where anchors come from: one file for each source, and what perturbs and mixes them."""
