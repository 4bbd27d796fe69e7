"""Real task streams: Meta-World v3 tasks and demonstrations of them in LeRobot's dataset format."""
