"""Measurements as commands. CONTRIBUTING.md says when to run which."""
