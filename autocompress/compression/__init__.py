"""From one recipe to one compressed model: the stages, their kept results, and artifacts."""
