"""Feature pyramid to classes: one room a task."""
