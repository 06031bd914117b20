"""The wire protocol: decodes requests, submits them to the engine, and encodes the answers."""
