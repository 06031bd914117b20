"""Train multi-exit classifiers that teach themselves, and publish them: recipe to model version."""
