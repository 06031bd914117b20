"""What all tests share.

Properties are searched on busy machines too, so no example has a time limit. A shell starts background
commands with SIGINT ignored, and the processes that tests start would inherit that.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
