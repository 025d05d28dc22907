"""For all tests: no command that a test starts puts a filter on a link of the host's own network namespace, and each
takes the signals that a test sends it."""

import os
import signal

from watchdog import interrupts

os.environ["WATCHDOG_MESH_HOST_LINKS"] = "no"

for number in interrupts.NUMBERS:
    if signal.getsignal(number) is signal.SIG_IGN:
        # Under nohup or a shell's & they are ignored, also by whatever is started: unlike a handler, that is inherited.
        signal.signal(number, lambda *_: None)
