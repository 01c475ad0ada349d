"""Decides which recipes of a search climb to the next rung, and joins their rows."""
