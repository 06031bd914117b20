"""Training runs as jobs: processes of their own, with a record, events and a log on disk."""
