"""Estimates of a run's duration and memory, before it starts."""
