"""Storage for tests: in memory, in a folder, and a real S3-compatible server on loopback."""

from __future__ import annotations

import importlib.util
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest

BUCKET = "runs"
HAS_S3 = all(importlib.util.find_spec(name) is not None for name in ("s3fs", "moto", "flask"))
KINDS = [
    "memory",
    "file",
    pytest.param(
        "s3",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not HAS_S3, reason="s3fs and moto[server] are not installed: no S3 server to test with"),
        ],
    ),
]


@lru_cache
def s3_endpoint() -> str:
    """The address of a server with the bucket.

    Each process has one server, because s3fs keeps its connections.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket=BUCKET)
    return endpoint


@contextmanager
def storage(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL of empty storage."""
    name = uuid.uuid4().hex
    if kind == "memory":
        yield f"memory://{name}"
    elif kind == "file":
        yield f"file://{folder}/{name}"
    else:
        for variable, value in {
            "AWS_ENDPOINT_URL": s3_endpoint(),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(variable, value)
        yield f"s3://{BUCKET}/{name}"
