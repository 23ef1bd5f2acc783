"""The verbs, by what they make: scenes and cubes, models, maps, whole runs. Each asks, calls a flow and reports."""
