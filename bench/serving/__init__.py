"""Offramp beside other servers, by one load generator."""
