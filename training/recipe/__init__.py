"""Recipes: what decides a training run, read from TOML and checked before any work."""
