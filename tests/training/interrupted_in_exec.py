"""A process, to be run with `-m`, that is interrupted inside a text that it executes, and says so."""

import contextlib
import sys

from training.run import interrupt

with contextlib.suppress(KeyboardInterrupt):
    exec("raise KeyboardInterrupt")  # noqa: S102
interrupt.hold_back()
sys.exit(130)
