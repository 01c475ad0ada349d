"""Finds the channels of a network that must be removed together (couplings), and removes them.

- ``couplings``: the couplings of a network in a mode, and reasons where no channel can be removed.
- ``dependencies``: finds them with torch-pruning's dependency graph.
- ``attention``: whole attention heads as channels.
- ``verifying``: checks a removal by comparing outputs.
- ``slicing``: removes channels of one layer.
- ``masking``: zeros in place of removal.
- ``removal``: removes channels of a whole network.
- ``structure``: a key of everything that couplings depend on.

Pruners decide which channels are removed first. They are plugins, for example
``plugins/autocompress_simple_pruners``.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
