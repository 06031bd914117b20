"""Files and folders that survive a kill: written whole or not at all, and held by one process at a time."""
