"""The cache of results on disk, by content key: :class:`Store`.

``store`` writes, finds and removes entries, and packs nested states into tensors and JSON.
``entries`` reads and checks one entry. ``pins`` marks entries that a running process needs.
"""

from autocompress.store.store import RECORD, TENSORS, Store, pack, save_tensors, unpack

__all__ = ["RECORD", "TENSORS", "Store", "pack", "save_tensors", "unpack"]
