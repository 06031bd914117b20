"""Training runs: from a recipe to a published version and its report."""
