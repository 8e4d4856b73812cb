"""The images as they are, each for itself, and an app with its sidecar."""

import json
import os
from pathlib import Path

from podman import Failed, Podman, within

# What Pilotfish's image may have. Without a link of the whole program, as `release` has one, the same takes a sixth more.
MOST_BYTES = 20_000_000 if os.environ.get("PROFILE") == "release" else 23_300_000
CONFIG = "/etc/pilotfish/pilotfish.yaml"


def equal(what: str, found, expected) -> None:
    if found != expected:
        raise Failed(f"{what}: {found!r}, not {expected!r}")


def describe(podman: Podman) -> None:
    """Size, user and labels, without running anything."""
    image = json.loads(podman.run("podman", "inspect", "pilotfish"))[0]
    print(f"pilotfish: {image['Size'] / 1e6:.1f} MB, user {image['User']}")
    if image["Size"] > MOST_BYTES:
        raise Failed(f"the image has {image['Size']} bytes, more than {MOST_BYTES}")
    equal("user", image["User"], "1447:1447")
    equal("entrypoint", image["Config"]["Entrypoint"], ["/pilotfish"])
    labels = image["Labels"]
    equal("licence", labels["org.opencontainers.image.licenses"], "Apache-2.0")
    for label in ("title", "description"):
        if not labels.get(f"org.opencontainers.image.{label}"):
            raise Failed(f"the image has no label {label}")
    for service in ("user-service", "order-service", "inventory-service"):
        image = json.loads(podman.run("podman", "inspect", f"pilotfish-{service}"))[0]
        print(f"{service}: {image['Size'] / 1e6:.1f} MB, user {image['User']}")
        equal("user", image["User"], "10001:10001")
        equal("title", image["Labels"]["org.opencontainers.image.title"], service)


def check(podman: Podman, folder: Path, root: Path) -> None:
    """`check` of a file that is mounted: a good one, and one with a mistake."""
    good = root / "examples/compose/gateway.yaml"
    command = ("podman", "run", "--rm", "--network", "none", "--read-only")
    said = podman.run(*command, f"--volume={good}:{CONFIG}:ro", "pilotfish", "check", "-c", CONFIG)
    equal("check", said, f"{CONFIG}: good")
    bad = folder / "bad.yaml"
    bad.write_text("service: { name: a, prot: 1 }\n")
    done = podman.try_run(*command, f"--volume={bad}:{CONFIG}:ro", "pilotfish", "check", "-c", CONFIG)
    equal("exit code of check", done.returncode, 1)
    if "prot" not in done.stderr:
        raise Failed(f"check does not tell of the mistake: {done.stderr}")
    print("pilotfish check: a good file, and one with a mistake")


def pilotfish_alone(podman: Podman, folder: Path) -> None:
    """It starts as its user with nothing but its file, answers, finds the others' folder, and ends with 0."""
    config = folder / "alone.yaml"
    config.write_text("service: { name: alone, port: 8080, health_check: off }\ndrain: { linger: 0s }\n")
    options = ("--network", "none", "--cap-drop", "ALL", f"--volume={config}:{CONFIG}:ro")
    podman.start("alone", "pilotfish", options=options)
    live = within(20, "/live", lambda: podman.get("alone", "http://127.0.0.1:15020/live"))
    equal("/live", live, "live")
    # With the registry that is used when none is named.
    pid = podman.inspect("alone", "{{.State.Pid}}")
    registered = Path(f"/proc/{pid}/root/run/pilotfish/services")
    within(20, "a file in the directory registry", lambda: list(registered.glob("alone@*.json")))
    podman.run("podman", "exec", "alone", "/pilotfish", "endpoints")
    podman.stop("alone")
    print("pilotfish: /live, its place in /run/pilotfish, exit code 0 on SIGTERM")


def app_and_sidecar(podman: Podman, folder: Path) -> None:
    """user-service with SQLite in a volume behind its sidecar, in one network, as in the compose file."""
    config = folder / "pair.yaml"
    config.write_text("service: { name: user-service, port: 3001, health_check: { http: /health, interval: 200ms } }\n"
                      "registry: off\ndrain: { linger: 0s }\n")
    podman.start("sidecar", "pilotfish",
                 options=("--network", "none", "--read-only", "--cap-drop", "ALL", f"--volume={config}:{CONFIG}:ro"))
    for found in ("made", "kept"):
        podman.start("app", "pilotfish-user-service",
                     options=("--network", "container:sidecar", "--read-only", "--cap-drop", "ALL", "--volume=users:/data"))
        inbound = "http://127.0.0.1:15006"
        within(20, "/ready", lambda: podman.get("sidecar", "http://127.0.0.1:15020/ready", "--fail"))
        if found == "made":
            user = '{"name":"Container","email":"container@example.com"}'
            podman.get("sidecar", f"{inbound}/users", "--fail", "--json", user)
        users = json.loads(podman.get("sidecar", f"{inbound}/users", "--fail"))
        names = sorted(user["name"] for user in users)
        equal("users", names, ["Ada", "Container", "Grace"])
        podman.stop("app")
        podman.run("podman", "rm", "app")
    podman.stop("sidecar")
    print("user-service behind a sidecar: requests, a volume that outlives the container, exit codes 0 on SIGTERM")


def test(podman: Podman, folder: Path, root: Path) -> None:
    check(podman, folder, root)
    pilotfish_alone(podman, folder)
    app_and_sidecar(podman, folder)
    podman.run("podman", "rm", "--all")
