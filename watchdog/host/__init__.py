"""The host: systemd, processes, and what this machine can do."""
