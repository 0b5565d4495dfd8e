"""Figures, tables and logging of runs: sent to the loggers during a run, or made from stored results afterwards."""
