"""Which slots of a stage's slab are free. Bookkeeping by number: no tensor is touched here."""

from serving.engine.policy import Integers

_FREE, _HELD = 1, 0


class SlotAllocator:
    """Hands out runs of neighbouring slots, first fit, and takes single slots back in any order."""

    def __init__(self, slots: int) -> None:
        self._state = bytearray([_FREE]) * slots
        self.held = 0

    def take(self, rows: int) -> range:
        """Hold a run of that many slots, or the longest there is; an empty one where all are held."""
        first = self._state.find(bytes([_FREE]) * rows)
        if first < 0:
            rows = max(len(run) for run in self._state.split(bytes([_HELD])))
            first = self._state.find(bytes([_FREE]) * rows)
        self._state[first : first + rows] = bytes([_HELD]) * rows
        self.held += rows
        return range(first, first + rows)

    def release(self, slots: Integers) -> None:
        """Give slots back."""
        for slot in slots.tolist():
            assert self._state[slot] == _HELD, f"slot {slot} was released twice"
            self._state[slot] = _FREE
        self.held -= len(slots)
