"""Audio: one file per dataset, and the classes that they share."""
