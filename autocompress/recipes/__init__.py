"""Which recipes exist: what each stage asks of the space, and how a recipe is composed."""
