"""Published models of other programs as codecs and priors; no code in their files is run."""
