"""Published separators: those of this repository, by name, and those of the Hugging Face Hub."""

from lass.hub.folders import folder_of, folder_of_published
from lass.hub.registry import PublishedModel, default_for, published_models

__all__ = ["PublishedModel", "default_for", "folder_of", "folder_of_published", "published_models"]
