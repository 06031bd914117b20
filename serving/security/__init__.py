"""TLS, bearer tokens, and which calls each token allows."""
