"""Accuracy, margins and calibration from the log-likelihoods of choices; a metric for `evaluate`."""
