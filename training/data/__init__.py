"""Datasets: load and check all rows of a source, then cut them into five splits."""
