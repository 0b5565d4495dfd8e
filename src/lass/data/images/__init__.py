"""Image datasets and their base classes."""
