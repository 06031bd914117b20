"""The engine: runs rows through stages until each leaves at an exit. Independent of gRPC."""
