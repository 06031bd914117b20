"""Made by `make protos` from protos/: do not edit."""
