"""Storage behind URLs, by fsspec; an object is written once and completely.

``urls`` checks the spelling and imports nothing. ``objects`` reads and writes.
"""

from autocompress.remote.objects import Objects, RemoteError
from autocompress.remote.urls import checked_url, is_url, joined, url_of

__all__ = ["Objects", "RemoteError", "checked_url", "is_url", "joined", "url_of"]
