"""Heads: the classifier on a stage's features. A shallow exit needs a bigger one than a deep exit."""

from torch import nn


def pooled_head(channels: int, classes: int, *, grid: int, size: int) -> nn.Module:
    """Average-pool to a grid of at most `grid` x `grid` cells, then one linear layer.

    grid = 1 is the plain global pool. A coarse grid keeps where things are: on small images a first
    exit with a global pool is barely better than chance. `size` is the features' height and width.
    """
    cells = min(grid, size)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(cells), nn.Flatten(), nn.Linear(channels * cells * cells, classes)
    )
