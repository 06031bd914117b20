"""Which slots of a stage's slab are free. Bookkeeping by number: no tensor is touched here."""

from serving.engine.policy import Integers

_FREE, _HELD = 1, 0


class SlotAllocator:
    """Hands out runs of neighbouring slots, first fit, and takes single slots back in any order."""

    def __init__(self, slots: int) -> None:
        self._state = bytearray([_FREE]) * slots
        self.held = 0

    def take(self, rows: int) -> int | None:
        """Hold a run of that many slots and give its first, or None where no run is long enough."""
        first = self._state.find(bytes([_FREE]) * rows)
        if first < 0:
            return None
        self._state[first : first + rows] = bytes([_HELD]) * rows
        self.held += rows
        return first

    def release(self, slots: Integers) -> None:
        """Give slots back."""
        for slot in slots.tolist():
            assert self._state[slot] == _HELD, f"slot {slot} was released twice"
            self._state[slot] = _FREE
        self.held -= len(slots)
