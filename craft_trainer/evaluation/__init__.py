"""Did it learn, did it forget: closed-loop success in simulators, multiple-choice questions."""
