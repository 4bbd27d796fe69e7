"""One file per LeRobot policy type: where its hidden states are, and what its tokens are."""
