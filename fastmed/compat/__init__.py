"""Losses and metrics of other libraries, by their names and with their numbers, on the fused operators."""
