"""From one recipe to one compressed model: stages, trainer, store, baseline, artifacts, the
opened.
"""
