"""Multi-exit networks, one architecture a file."""
