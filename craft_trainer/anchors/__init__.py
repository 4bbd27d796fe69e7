"""Anchors: the teacher's features and outputs on old-task samples, and the losses that hold them."""
