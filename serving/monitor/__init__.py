"""Check certificates and drift against live traffic, and keep revocations across restarts."""
