"""Training runs as jobs: separate processes, each with a record, events and a log on disk."""
