"""Experiments from end to end: a graph of commands and the results that they leave."""
