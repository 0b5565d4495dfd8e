"""LASS: separate mixtures with generative models that were trained on single sources only."""
