"""The command `lass`: fit, predict, validate, test (Lightning), separate (files), import (published models)."""
