"""Recipes: the settings of a training run, read from TOML and checked before training."""
