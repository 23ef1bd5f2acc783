"""What runs, in order: the catalogue and the model as Prefect flows and as verbs of a terminal."""
