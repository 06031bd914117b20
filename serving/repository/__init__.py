"""The model repository: the format on disk, and the versions that are served from it."""
