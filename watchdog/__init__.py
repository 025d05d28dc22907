"""Watchdog Mesh: SOC agents that watch each other."""

__version__ = "0.1.0"
