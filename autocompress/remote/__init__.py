"""Storage behind URLs, by fsspec: objects that are put once, and whole.

``urls`` checks the spelling and imports nothing. ``objects`` reads and writes.
"""

from autocompress.remote.objects import Objects, RemoteError
from autocompress.remote.urls import checked_url, is_url, joined, url_of

__all__ = ["Objects", "RemoteError", "checked_url", "is_url", "joined", "url_of"]
