"""Measurements as commands. CONTRIBUTING.md states when to run them."""
