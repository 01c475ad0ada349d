"""What it takes to open a large folder, in a process of its own that imports nothing else.

python benchmarks/parts/opening.py FOLDER OUT.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from autocompress.data.folder import refuse_splits_as_classes, split_folders
from autocompress.data.listing import Listing
from autocompress.data.listings import is_kept
from autocompress.data.split import DataInfo, stratified
from autocompress.files import write_json


def opened(root: Path) -> dict[str, Any]:
    """Seconds and megabytes of opening ``root`` in this process, with splits and their digests."""
    Path("/proc/self/clear_refs").write_text("5")  # from now on, the peak is measured
    before = peak()
    began = time.perf_counter()
    split_folders(root)
    if not is_kept(root):
        refuse_splits_as_classes(root)
    listing = Listing.read(root)
    split = listing.split(DataInfo(len(listing.classes), 3, (224, 224), (0.5,) * 3, (0.5,) * 3, listing.classes))
    held_out, rest = stratified(split.labels(), len(split) // 10, 0)
    digests = [split.take(part).digest for part in (held_out, rest)]
    seconds = time.perf_counter() - began
    megabytes = peak() - before
    return {"seconds": round(seconds, 2), "megabytes": round(megabytes), "digests": digests}


def peak() -> float:
    """The peak memory of this process so far in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), opened(Path(sys.argv[1])))
