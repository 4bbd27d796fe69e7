"""What `craft-trainer bench` measures: seconds, memory and bytes, side by side in one run."""
