"""How watchers act as one: the Coordinator and its backends."""
