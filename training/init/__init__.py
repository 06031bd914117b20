"""Proposes a recipe for the user's own data: look at the data, choose every setting, measure the time."""
