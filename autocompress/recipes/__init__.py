"""Recipes: the parameters of each stage, and composing a recipe from them."""
