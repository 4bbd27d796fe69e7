"""The pictures of the report. Needs matplotlib; every figure is made with its object API, pyplot is never imported."""
