"""Tests of certificates and drift on live traffic, and revocations that survive restarts."""
