"""Studies: networks trained by one recipe, compared by rule, generation, exit and seed."""
