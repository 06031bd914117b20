"""The servers that speak HTTP/2 and gRPC: a native one for inference calls, and grpcio for everything."""
