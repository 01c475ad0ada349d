"""The cache of results on disk, by content key: :class:`Store`.

``store`` writes, finds and removes entries, and packs nested states into tensors and JSON.
``entries`` reads and checks one entry. ``tier`` is the cache on a URL behind the local one.
``pins`` marks entries that a running process needs.
"""

from autocompress.store.store import RECORD, TENSORS, Store, pack, save_tensors, unpack
from autocompress.store.tier import check_shared_cache, fetch_shared, offer_shared, shared_tier

__all__ = [
    "RECORD",
    "TENSORS",
    "Store",
    "check_shared_cache",
    "fetch_shared",
    "offer_shared",
    "pack",
    "save_tensors",
    "shared_tier",
    "unpack",
]
