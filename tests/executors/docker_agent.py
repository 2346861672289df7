"""A process that hosts a Docker executor as an agent does, for tests that kill it.

    python -m tests.executors.docker_agent URL NAME DIRECTORY SEGMENTS SCRIPT

Starts the attempt NAME and copies its output to SEGMENTS until it is killed or the attempt has ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from executors.base import AttemptSpec
from executors.docker import DockerExecutor, Settings
from executors.segments import SegmentWriter
from tests.docker_engine import IMAGE


async def main(url: str, name: str, directory: Path, segments: Path, script: str) -> None:
    executor = DockerExecutor(Settings(base_url=url))
    await executor.open()
    await executor.start(AttemptSpec(name, directory, segments, ("sh", "-c", script), image=IMAGE, pull="never"))
    with SegmentWriter(segments, limit_bytes=2**28) as writer:
        async for line in executor.logs(name, directory, follow=True):
            writer.write_line(line)
    await executor.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]))
