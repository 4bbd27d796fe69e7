"""Simulators: tasks, cameras, experts, recordings, questions about scenes, and closed-loop success."""
