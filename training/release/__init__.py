"""From a trained network to a published model version and a report."""
