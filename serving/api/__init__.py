"""The wire: decode a request, submit its rows to the engine, encode the answers."""
