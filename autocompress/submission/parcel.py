"""Packs the files that are sent to a cluster: the job, its plugins, and this autocompress."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from autocompress.errors import UserError
from autocompress.files import digest
from autocompress.remote import is_url
from autocompress.submission.order import Order
from autocompress.submission.sending import read_plugin

NAME = "autocompress"
MOST_BYTES = 100 * 2**20
"""Largest working directory that Ray accepts."""
_PACKAGE = Path(__file__).parent.parent
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyo")


def packed(order: Order, folder: Path) -> Path:
    """Fills ``folder`` with the files to send.

    Packages are in it as in a wheel. Ray adds the folder to the path of Python on each node.

    Returns:
        The folder of the plugins on the nodes.

    Raises:
        UserError: if the folder is too large, or plugins cannot be sent.
    """
    for package in _packages():
        shutil.copytree(package, folder / package.name, ignore=_LEFT_OUT)
    spaces = _PACKAGE.parent / "search_spaces"
    if spaces.is_dir() and not (folder / NAME / "search_spaces").exists():  # a source tree
        shutil.copytree(spaces, folder / NAME / "search_spaces", ignore=_LEFT_OUT)
    _write_metadata(folder)
    place = _with_plugins(order, folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise UserError(
            f"the job and its plugins have {size / 2**20:.0f} MiB, more than Ray accepts (100 MiB)",
            "put data on storage that the nodes share",
        )
    return place


def _packages() -> Iterator[Path]:
    """Folders of autocompress and of the packages of its distribution."""
    yield _PACKAGE
    modules = {point.value.partition(":")[0] for point in importlib.metadata.distribution(NAME).entry_points}
    for name in sorted({module.partition(".")[0] for module in modules} - {NAME}):
        found = importlib.util.find_spec(name)
        for place in (found.submodule_search_locations or ()) if found is not None else ():
            yield Path(place)


def _write_metadata(folder: Path) -> None:
    """Writes the metadata by which Python finds autocompress and its entry points."""
    found = importlib.metadata.distribution(NAME)
    info = folder / f"{NAME}-{found.version}.dist-info"
    info.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (info / name).write_text(found.read_text(name) or "", encoding="utf-8")


def _with_plugins(order: Order, folder: Path) -> Path:
    """Adds the plugins and the job, with paths that are also valid for a later resume."""
    texts = {path.name: read_plugin(path) for path in order.job.plugins}
    if len(texts) < len(order.job.plugins):
        raise UserError("two plugins of the job have the same file name", "rename one of them")
    if texts and is_url(order.results):
        raise UserError(
            "plugins cannot be sent with a run whose results are on a URL",
            "install them on the nodes, or put the results into a folder that the nodes share",
        )
    place = Path(order.results) / ".plugins" / digest(texts)[:12]
    (folder / "plugins").mkdir()
    for name, text in texts.items():
        (folder / "plugins" / name).write_text(text, encoding="utf-8")
    sent = order.job.model_copy(update={"plugins": tuple(place / name for name in texts)})
    (folder / "job.yaml").write_text(sent.to_yaml(), encoding="utf-8")
    return place
