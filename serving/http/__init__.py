"""The HTTP port: metrics, probes and the page for people."""
