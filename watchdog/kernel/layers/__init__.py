"""The layers of an isolation, one file each: what holds an agent, each for a reason of its own."""
