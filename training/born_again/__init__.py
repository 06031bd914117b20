"""Born-Again generations: each trained network teaches the next of the same architecture."""
