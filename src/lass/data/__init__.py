"""Signals in: one file per family of datasets, and the one place where sources are mixed.

Nothing is imported here, so that `lass.data.mixing` costs no Lightning.
"""
