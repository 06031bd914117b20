"""Publishes a version again with other operating points and the same stages, byte for byte."""
