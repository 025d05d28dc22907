"""What scripts/demo runs: the whole mission on this machine, with agents, watchers and a receiver of its own."""
