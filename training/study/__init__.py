"""Studies: many trainings under one recipe, compared by rule, generation, exit and seed."""
