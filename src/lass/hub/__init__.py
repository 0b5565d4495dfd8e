"""Published separators: those of this repository, by name, and those of the Hugging Face Hub."""

from lass.hub.folders import folder_of
from lass.hub.registry import PublishedModel, default_for, published_models

__all__ = ["PublishedModel", "default_for", "folder_of", "published_models"]
