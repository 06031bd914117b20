"""Checks whether memory, file descriptors and threads of a server grow under mixed load."""
