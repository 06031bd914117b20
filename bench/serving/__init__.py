"""Compares Offramp with other servers under the same loads."""
