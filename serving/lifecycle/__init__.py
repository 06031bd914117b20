"""The life of the server: load and warm up, serve, drain, stop."""
