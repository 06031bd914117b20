"""Export, publication and report of trained networks."""
