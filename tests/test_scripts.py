"""`scripts/test-image` makes its image of the one busybox in the package that is a program."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "test-image"
BUSYBOX = "#!/bin/sh\n[ \"$1\" = --list ] && printf 'busybox\\nsh\\nls\\n'\n"
DOCKER = '#!/bin/sh\ncase $1 in image) exit 1 ;; import) cat > "$IMAGE" ;; esac\n'
APT_GET = '#!/bin/sh\n[ "$1" = download ] && cp "$PACKAGE" busybox-static_1.36_all.deb\n'
CONTROL = (
    "Package: busybox-static\nVersion: 1.36\nArchitecture: all\nMaintainer: nobody <n@example.com>\nDescription: x\n"
)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="the package can only be made on Debian and its kin")
@pytest.mark.parametrize("folder", ["bin", "usr/bin"])
def test_the_image_is_made_of_the_program_and_not_of_the_packages_hook(tmp_path: Path, folder: str) -> None:
    package, tools = tmp_path / "package", tmp_path / "tools"
    program(package / folder / "busybox", BUSYBOX)
    program(package / "usr/share/initramfs-tools/conf-hooks.d/busybox", "BUSYBOX=y\n")
    program(package / "DEBIAN" / "control", CONTROL)
    deb, image = tmp_path / "package.deb", tmp_path / "image.tar"
    subprocess.run(["dpkg-deb", "--build", str(package), str(deb)], check=True, capture_output=True)
    program(tools / "docker", DOCKER)
    program(tools / "apt-get", APT_GET)
    (tools / "busybox").symlink_to("/bin/true")  # one that needs shared libraries is of no use in an image
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "PACKAGE": str(deb), "IMAGE": str(image)}
    done = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(image) as made:
        content = made.extractfile("./bin/busybox")
        assert content is not None
        assert content.read().decode() == BUSYBOX
        assert made.getmember("./bin/sh").linkname == "busybox"
