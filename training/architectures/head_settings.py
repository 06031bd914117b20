"""The settings of a head in a recipe. Reading them does not need PyTorch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.recipe.section import Section


class HeadSettings(Section):
    """The settings of a head."""

    kind: Literal["linear", "residual", "separable"] = "linear"
    """`linear`, `residual` or `separable`. Default linear."""
    grid: Annotated[int, Field(ge=1, le=64)] = 1
    """Cells a side of the grid that the features are pooled to, except for a separable head; 1 is global
    pooling. Default 1."""
    channels: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False)] = ()
    """Channels of each block of a residual head. Default none."""
    attention: bool = False
    """Whether a separable head begins with an attention gate. Default false."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "separable" and self.grid != 1:
            raise ValueError('expected grid 1 for kind "separable", whose embedding is pooled')
        if self.kind != "separable" and self.attention:
            raise ValueError(f'expected attention false for kind "{self.kind}"')
        if (self.kind == "residual") != bool(self.channels):
            wanted = "one number for each block" if self.kind == "residual" else "none"
            raise ValueError(f'channels: expected {wanted} for kind "{self.kind}", got {list(self.channels)}')
        return self
