"""Carry out an order, journal the outcome."""
