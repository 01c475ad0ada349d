"""Help for authors of plugins: a package to begin with, and all checks of a plugin at once."""

from autocompress.authoring.checking import module_of
from autocompress.authoring.scaffold import KINDS, new_plugin
from autocompress.testing import check_plugin

__all__ = ["KINDS", "check_plugin", "module_of", "new_plugin"]
