"""Slowdown attacks: inputs made to stay in the network for longer."""
