"""Blocks: the buffers for the inputs and logits of one batch, and the slots of its features.

A block belongs to one batch at a time. Its buffers are written in place, and their bindings are reused for
every batch with the same number of rows. `StageQueues` decides which block a batch uses.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidManifest, RepositoryError, first_line
from serving.repository.repository import PublishedVersion
from serving.stages.costs import MeasuredCosts
from serving.stages.devices import Device
from serving.stages.runner import StageRun, StageRunner, stage_files


class Block:
    """The buffers of one batch at one stage."""

    def __init__(self, runner: StageRunner, stage: int, first_slot: int, max_rows: int) -> None:
        """Allocate the buffers. Features are written to `max_rows` slots from `first_slot`."""
        self._runner, self._stage = runner, stage
        self.slots = np.arange(first_slot, first_slot + max_rows)
        """The slot of each row's features."""
        self.classes = runner.classes
        self.inputs: Mapping[str, NDArray[np.generic]] = (
            runner.blank_inputs(max_rows) if stage == 0 else {"rows": np.zeros(max_rows, dtype=np.int64)}
        )
        """Input buffers by name; fill them from row 0 before a run."""
        self._logits_BK = np.empty((max_rows, runner.classes), dtype=np.float32)
        self._sizes = runner.device.batch_sizes(max_rows)
        self._bound: dict[tuple[int, bool], StageRun] = {}

    def run(self, rows: int, *, all_cores: bool = False) -> NDArray[np.float32]:
        """Run the first `rows` rows of the inputs; return their logits [B, K], valid until the next run."""
        size = next((size for size in self._sizes if size >= rows), rows)
        bound = self._bound.get((size, all_cores))
        if bound is None:
            bound = self._bound[size, all_cores] = self._bind(size, 0, all_cores=all_cores)
        return bound.execute()[:rows]

    def run_part(self, part: slice) -> NDArray[np.float32]:
        """Run some rows of the inputs. Their features go to the same slots as in a run of all rows."""
        return self._bind(part.stop - part.start, part.start).execute()

    def _bind(self, rows: int, start: int, *, all_cores: bool = False) -> StageRun:
        part = slice(start, start + rows)
        inputs = {name: array[part] for name, array in self.inputs.items()}
        return self._runner.bind(
            self._stage, inputs, self._logits_BK[part], int(self.slots[start]), all_cores=all_cores
        )


def open_stages(
    version: PublishedVersion,
    device: Device,
    *,
    max_batch_size: int,
    blocks: Sequence[int],
    idle_threads: int,
) -> tuple[StageRunner, MeasuredCosts, list[list[Block]]]:
    """Open the stages of a published version, warm them up, and allocate the blocks of each stage.

    blocks: number of blocks, by stage. Raises RepositoryError if the stages don't match the manifest.
    """
    manifest = version.manifest
    slots = max(blocks) * max_batch_size
    try:
        runner = StageRunner(
            stage_files(version),
            manifest.inputs,
            device,
            slots=slots,
            idle_threads=idle_threads,
            padded_sizes=device.batch_sizes(max_batch_size),
        )
        if runner.classes != len(manifest.labels):
            raise InvalidManifest(
                f"{version.folder}: labels: expected {runner.classes}, the width of the logits, "
                f"got {len(manifest.labels)}"
            )
        costs = runner.warm_up(max_batch_size)
    except RepositoryError:
        raise
    except Exception as error:  # onnxruntime has a separate exception class for each status
        raise RepositoryError(
            f"{version.folder}: the stages do not fit the manifest: {first_line(error)}"
        ) from error
    allocated = [
        [Block(runner, stage, number * max_batch_size, max_batch_size) for number in range(count)]
        for stage, count in enumerate(blocks)
    ]
    return runner, costs, allocated
