"""An S3 server on loopback (moto), as a process of its own, for tests of the archive."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
import urllib3

START_S = 60.0


@dataclass
class S3:
    """A server. bucket: one that is there. environment: what an agent needs to reach it."""

    port: int
    log: Path
    bucket: str = "logs"
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "key-of-tests",
            "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, empty, and wait until it answers; it has the bucket then."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end_s = time.monotonic() + START_S
        http = urllib3.PoolManager(retries=False)
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                http.request("GET", f"{self.endpoint}/moto-api/", timeout=1)
                break
            except urllib3.exceptions.HTTPError:
                assert time.monotonic() < end_s, self.log.read_text()
                time.sleep(0.05)
        http.clear()
        self.files().mkdir(self.bucket)

    def stop(self) -> None:
        """End it; what it had is gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def files(self) -> fsspec.AbstractFileSystem:
        """What it has."""
        return fsspec.filesystem(
            "s3",
            key="key-of-tests",
            secret="secret-of-tests",
            client_kwargs={"endpoint_url": self.endpoint, "region_name": "eu-west-1"},
            skip_instance_cache=True,
            use_listings_cache=False,
        )


@contextmanager
def s3(port: int, root: Path) -> Iterator[S3]:
    """A server that runs, until the block ends."""
    server = S3(port, root / "s3.log")
    try:
        server.start()
        yield server
    finally:
        server.stop()
