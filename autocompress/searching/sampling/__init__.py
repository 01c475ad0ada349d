"""Optuna's samplers draw recipes here, and are told the results."""
