"""Multi-exit networks, one file per architecture."""
