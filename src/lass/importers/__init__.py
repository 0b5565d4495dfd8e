"""Importers of published models as codecs and priors; no code in the model files is executed."""
