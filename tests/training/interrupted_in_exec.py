"""A program, run with `-m`, that is interrupted inside an `exec` and ends with exit code 130."""

import contextlib
import sys

from training.pipeline import interrupt

with contextlib.suppress(KeyboardInterrupt):
    exec("raise KeyboardInterrupt")  # noqa: S102
interrupt.disable()
sys.exit(130)
