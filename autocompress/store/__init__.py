"""Results kept on disk under their content keys: :class:`Store`.

``store`` keeps, finds and removes entries, and packs nested states into tensors and JSON.
``entries`` reads and checks one entry. ``pins`` marks the entries that a live process still needs.
"""

from autocompress.store.store import RECORD, TENSORS, Store, pack, save_tensors, unpack

__all__ = ["RECORD", "TENSORS", "Store", "pack", "save_tensors", "unpack"]
