"""The command `watchdog-mesh`: one short function a verb."""
