"""Offramp beside the servers that a user would pick instead, and beside the least that gRPC costs."""
