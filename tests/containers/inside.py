"""Builds the images and runs them. `run` starts it in namespaces of its own: whatever it leaves ends with it.

inside.py FOLDER BINARIES: a folder to work in, and the one with the static binaries."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import compose
import images
from podman import Failed, Podman

ROOT = Path(__file__).resolve().parents[2]


def build(podman: Podman, folder: Path, binaries: Path) -> None:
    """What the stage `build` of the Dockerfiles makes, made of the binaries; then the images."""
    stage = folder / "pilotfish"
    (stage / "image/etc/ssl/certs").mkdir(parents=True)
    (stage / "writable/pilotfish").mkdir(parents=True)
    shutil.copy(binaries / "pilotfish", stage / "image/pilotfish")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", stage / "image/etc/ssl/certs")
    podman.build("pilotfish", ROOT / "Dockerfile", ROOT, stage, TARGETARCH="amd64")
    for service in ("user-service", "order-service", "inventory-service"):
        stage = folder / service
        (stage / "image").mkdir(parents=True)
        (stage / "writable/data").mkdir(parents=True)
        shutil.copy(binaries / service, stage / "image/service")
        podman.build(f"pilotfish-{service}", ROOT / "examples/Dockerfile", ROOT, stage, SERVICE=service)


def left_out(what: str, why: Failed) -> int:
    print(f"{what}: {why}")
    return 1 if os.environ.get("PILOTFISH_TESTS_NO_SKIP") == "1" else 0


def main(folder: Path, binaries: Path) -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Where podman has what it knows of networks, addresses and locks, of all storages together.
    for place in ("/run", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    podman = Podman(folder / "podman")
    try:
        podman.probe(binaries / "pilotfish")
    except Failed as error:
        return left_out("the images are not built, as buildah does not work here", error)
    try:
        build(podman, folder, binaries)
        try:
            print(f"podman works with {podman.settle()}")
        except Failed as error:
            return left_out("the images are built, and not run, as podman does not work here", error)
        images.describe(podman)
        for name, test in (("images", lambda: images.test(podman, folder, ROOT)), ("shop", lambda: compose.test(podman, ROOT))):
            began = time.monotonic()
            test()
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    finally:
        podman.remove_all()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
