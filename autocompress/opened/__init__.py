"""An opened job: its data loaded, its baseline made and its methods prepared.

All recipes of a search share it.
"""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
