"""Makes a compressed model from a recipe: the stages, their stored results, and artifacts."""
