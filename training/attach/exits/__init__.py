"""Exits: which levels become exits, and the operating points that they offer."""
