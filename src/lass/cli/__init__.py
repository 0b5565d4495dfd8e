"""The `lass` command: fit, predict, validate, test (Lightning), separate (files), import (published models)."""
