"""The front ends, which speak HTTP/2 and gRPC: native for inference calls, and grpcio for all calls."""
