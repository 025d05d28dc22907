"""The real Watcher, LocalCoordinator and Journal of several watchers of one host, on a virtual clock, with faults drawn
at random from a seed. `scripts/simulate` runs many schedules; tests/unit/test_simulation.py runs some.

host.py is the truth: agents, links, clocks. process.py drives one watcher through it as watchdog/loop.py would.
faults.py draws what goes wrong, checks.py says what must never happen, planted.py breaks the code on purpose to see
that the checks find it, schedule.py puts one run together.
"""
