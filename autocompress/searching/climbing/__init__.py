"""Which recipes of a search climb to the next rung, and what becomes of their rows."""
