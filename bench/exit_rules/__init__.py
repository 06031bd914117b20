"""Other exit rules against the plain one, on the stages of a published version."""
