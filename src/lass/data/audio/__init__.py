"""Audio datasets and their base classes."""
