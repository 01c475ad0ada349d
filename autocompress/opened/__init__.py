"""An opened job: its data loaded, its baseline made and its methods prepared.

All recipes of a search share it.
"""
