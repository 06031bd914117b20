"""A published version again with other operating points: the same stages, byte for byte."""
