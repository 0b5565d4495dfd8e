"""Datasets and data modules of sources, and the mixing of sources.

Nothing is imported here, so that importing `lass.data.mixing` does not import Lightning.
"""
