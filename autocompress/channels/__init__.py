"""Channels that can be removed from a network, and their removal.

``coupling``: channels that must live or die together, and how many of them stay. ``couplings``:
those of a network in a mode, with reasons where nothing may go. ``dependencies``: finding them with
torch-pruning's dependency graph; ``attention``: whole heads of them. ``verifying``: measuring that
a removal leaves the function alone. ``slicing``: one layer with fewer channels. ``masking``: zeros
in place of removal. ``removal``: the whole network. ``structure``: what couplings depend on, as a
key.

Pruners decide which channels go first. They are plugins: ``plugins/autocompress_criteria`` and
others.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
