"""One training run: recipe, task, steps, loop, validation."""
