"""For all tests: no command that a test starts puts a filter on a link of the host's own network namespace."""

import os

os.environ["WATCHDOG_MESH_HOST_LINKS"] = "no"
