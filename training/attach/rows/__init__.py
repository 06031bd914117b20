"""The user's rows: read, checked, split, and altered for training."""
