"""Stores of the study: a file in the folder of the run, PostgreSQL, or Redis."""
