"""The ways for traffic to get out of an agent or into it: what is known of each, what stops it, and trying it."""
