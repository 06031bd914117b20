"""Prometheus metrics: the instruments, and the HTTP port that exposes them."""
