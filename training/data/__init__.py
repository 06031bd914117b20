"""Datasets: a source is read whole and checked, then cut into the five splits."""
