"""Hints: a loss that pulls each early exit's embedding towards the final exit's, through a linear map.

The feature term of Be Your Own Teacher (Zhang et al., ICCV 2019), after Romero et al., "FitNets", ICLR 2015.
The maps are trained with the network. They are not part of the network or its exported stages.

Shapes: `B` rows, `D` embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Hints(nn.Module):
    """A linear map from each early exit's embedding to the final exit's."""

    def __init__(self, embedding_widths: Sequence[int]) -> None:
        super().__init__()
        *early_widths, final_width = embedding_widths
        self.maps = nn.ModuleList(nn.Linear(width, final_width) for width in early_widths)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Compute the mean squared distance between mapped and final embeddings, summed over early exits.

        The final exit receives no gradient.
        """
        *early, final_BD = embeddings
        distances = [
            functional.mse_loss(to_final(embedding_BD).float(), final_BD.detach().float())
            for to_final, embedding_BD in zip(self.maps, early, strict=True)
        ]
        return torch.stack(distances).sum()
