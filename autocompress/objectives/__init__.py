"""Quantities, bounds, dominance, fronts, hypervolume and intervals, each defined once.

- ``quantities``: the table of quantities. A new one is one entry there.
- ``spelling``: how a bound is written in a job (``0.5x``, ``4 ms``).
- ``figures``: the values of quantities in a row, where any of them may be missing.
- ``bounds``: whether a bound is met, and how far a row is beyond it.
- ``dominance``: which points dominate which, and a front that grows point by point.
- ``fronts``: the front of a search's rows, its contenders, and the nearest miss.
- ``hypervolume``: the volume that a front dominates.
- ``intervals``: confidence intervals of measured accuracies.

The room imports only ``autocompress.errors``. Search, compression, results and report import it.
"""
