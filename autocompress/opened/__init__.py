"""An opened job: loaded data, the baseline and the methods that apply, for all recipes."""

import autocompress.compat.torch_compiler  # noqa: F401  # imports timm, in half of the time
