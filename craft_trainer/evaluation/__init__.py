"""Did it learn, did it forget: closed-loop success of policies in simulators."""
