"""Heads: pooled features, training and weights."""
