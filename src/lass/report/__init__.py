"""Pictures and tables: into the logger while a run goes on, from results on disk afterwards."""
