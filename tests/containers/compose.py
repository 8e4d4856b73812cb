"""docker-compose.yml brought up by podman, as far as it is used here: a key that is not known is an error.

Images of others cannot be pulled where there is no registry. For those the same server as Debian packages it runs in
their place (stand-in), with the environment, command and health check of the compose file."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from podman import Failed, Podman, within

KEYS = {
    "image", "build", "read_only", "cap_drop", "security_opt", "restart", "stop_grace_period", "healthcheck", "ports",
    "volumes", "depends_on", "network_mode", "environment", "command", "hostname",
}
OURS = {"gateway"} | {
    service + suffix
    for service in ("user-service", "order-service", "inventory-service")
    for suffix in ("", "-sidecar")
}
# There is no package of it, and nothing needs it.
LEFT_OUT = {"jaeger"}
NETWORK = "shop"
HERE = Path(__file__).parent


def interpolated(value):
    """`${NAME:-default}` and `$$`, as compose has them."""
    if isinstance(value, dict):
        return {key: interpolated(of) for key, of in value.items()}
    if isinstance(value, list):
        return [interpolated(of) for of in value]
    if not isinstance(value, str):
        return value

    def replace(match):
        return "$" if match[0] == "$$" else os.environ.get(match["name"]) or match["default"]

    return re.sub(r"\$\$|\$\{(?P<name>\w+):-(?P<default>[^}]*)\}", replace, value)


class Compose:
    def __init__(self, podman: Podman, root: Path):
        self.podman = podman
        self.root = root
        file = interpolated(YAML(typ="safe").load(root / "docker-compose.yml"))
        self.services = {name: of for name, of in file["services"].items() if name not in LEFT_OUT}
        for name, service in self.services.items():
            if unknown := set(service) - KEYS:
                raise Failed(f"docker-compose.yml: {name} has {sorted(unknown)}, which this test does not know")

    def up(self) -> None:
        stand_in_image(self.podman)
        self.podman.run("podman", "network", "create", NETWORK)
        started: set[str] = set()
        while len(started) < len(self.services):
            ready = [name for name in self.services if name not in started and self._needs(name) <= started]
            if not ready:
                raise Failed(f"docker-compose.yml: {sorted(set(self.services) - started)} wait for each other")
            for name in ready:
                for other, how in self.services[name].get("depends_on", {}).items():
                    if how["condition"] == "service_healthy":
                        self.healthy(other)
                self._start(name)
                started.add(name)
        for name, service in self.services.items():
            if "healthcheck" in service:
                self.healthy(name)

    def _needs(self, name: str) -> set:
        return set(self.services[name].get("depends_on", {}))

    def _start(self, name: str) -> None:
        service = self.services[name]
        image = service["image"] if name in OURS else "stand-in"
        command = shlex.split(service.get("command", ""))
        options = list(flags(service, self.root))
        mode = service.get("network_mode", "")
        if mode.startswith("service:"):
            options.append(f"--network=container:{mode.removeprefix('service:')}")
        else:
            options += [f"--network={NETWORK}", f"--network-alias={name}"]
        if name not in OURS:
            options += stand_in_options()
            command = [name, *command]
        self.podman.start(name, image, *command, options=tuple(options))

    def healthy(self, name: str) -> None:
        kind, *test = self.services[name]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            test = ["sh", "-c", *test]
        try:
            within(90, name, lambda: self.podman.run("podman", "exec", name, *test) or True, pause=0.5)
        except (Failed, subprocess.TimeoutExpired) as error:
            raise Failed(f"{name} is not healthy: {error}\n{self.podman.logs(name)[-3000:]}") from None

    def down(self) -> None:
        """Ends all of ours together, and wants them to end well."""
        self.podman.stop(*sorted(OURS))


def flags(service: dict, root: Path):
    if service.get("read_only"):
        # podman would make /tmp and others writable all the same.
        yield from ("--read-only", "--read-only-tmpfs=false")
    yield from (f"--cap-drop={capability}" for capability in service.get("cap_drop", []))
    yield from (f"--security-opt={option.split(':')[0]}" for option in service.get("security_opt", []))
    yield from (f"--publish={port}" for port in service.get("ports", []))
    yield from (f"--env={key}={value}" for key, value in service.get("environment", {}).items())
    if "hostname" in service:
        yield f"--hostname={service['hostname']}"
    for volume in service.get("volumes", []):
        source, target = volume.split(":", 1)
        yield f"--volume={root / source if source.startswith('.') else source}:{target}"


def stand_in_image(podman: Podman) -> None:
    """An image with nothing of its own: the programs are this machine's."""
    folder = podman.folder / "stand-in"
    folder.mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (folder / name).symlink_to(os.readlink(f"/{name}"))
    for name in ("tmp", "var", "etc"):
        (folder / name).mkdir()
        (folder / name).chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nserver:x:1000:1000::/var:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nserver:x:1000:\n")
    (folder / "stand-in").write_text((HERE / "stand-in").read_text())
    (folder / "stand-in").chmod(0o755)
    (folder / "Dockerfile").write_text(
        "FROM scratch AS build\nFROM scratch\nCOPY --from=build / /\nUSER 1000:1000\nENTRYPOINT [\"/stand-in\"]\n"
    )
    podman.build("stand-in", folder / "Dockerfile", folder, folder)


def stand_in_options():
    """What they keep is in /var of the container: a volume of the compose file is of another layout."""
    yield f"--volume={os.environ['CONSUL_BIN']}:/opt/consul:ro"
    yield from (f"--volume={folder}:{folder}:ro" for folder in ("/usr", "/etc/alternatives"))
    # Not what Debian puts around them in /usr/bin.
    servers = [str(found) for found in Path("/usr/lib/postgresql").glob("*/bin")]
    yield f"--env=PATH={':'.join(['/opt', '/usr/lib/rabbitmq/bin', *servers, '/usr/sbin', '/usr/bin'])}"
    yield "--env=HOME=/var"


def prometheus_scrapes() -> bool:
    """Every target of its configuration is up."""
    asked = subprocess.run(
        ["curl", "-sS", "--fail", "http://127.0.0.1:9090/api/v1/targets?state=active"], text=True, capture_output=True
    )
    if asked.returncode != 0:
        raise Failed(asked.stderr)
    targets = json.loads(asked.stdout)["data"]["activeTargets"]
    down = [f"{target['scrapeUrl']}: {target['lastError']}" for target in targets if target["health"] != "up"]
    if down or not targets:
        raise Failed(f"not scraped: {down}")
    return True


def governed_tcp(podman: Podman, name: str, service: str) -> None:
    """The app's connections to its database or broker are in the sidecar's bulkhead of it."""
    metrics = podman.get(name, "http://127.0.0.1:15020/metrics")
    line = f'pilotfish_bulkhead_in_use{{direction="outbound",service="{service}",kind="connections"}} '
    in_use = [float(of.removeprefix(line)) for of in metrics.splitlines() if of.startswith(line)]
    if not in_use or in_use[0] < 1:
        raise Failed(f"{name} has no connection to {service}: {in_use}")


def test(podman: Podman, root: Path) -> None:
    shop = Compose(podman, root)
    shop.up()
    print(f"docker-compose.yml: {len(shop.services)} containers, healthy as they say (without {', '.join(LEFT_OUT)})")
    for _ in range(2):
        newman = subprocess.run(
            [root / "tests/postman/run", "http://127.0.0.1:8080", "--color", "off", "--reporter-cli-no-success-assertions"],
            text=True, capture_output=True, timeout=300,
        )
        if newman.returncode != 0:
            logs = "\n".join(f"== {name}\n{podman.logs(name)[-1500:]}" for name in sorted(OURS))
            raise Failed(f"newman: exit code {newman.returncode}\n{newman.stdout}{newman.stderr}\n{logs}")
    summary = re.search(r"assertions\D*(\d+)\D*(\d+)", newman.stdout)
    print(f"newman, the second time on the same shop: {summary[1]} assertions, {summary[2]} failed")
    for name, service in (
        ("user-service-sidecar", "postgres"),
        ("order-service-sidecar", "mysql"),
        ("order-service-sidecar", "rabbitmq"),
        ("inventory-service-sidecar", "rabbitmq"),
    ):
        governed_tcp(podman, name, service)
    print("PostgreSQL, MySQL and RabbitMQ are reached through outbound.ports of the sidecars")
    within(30, "Prometheus", prometheus_scrapes)
    print("Prometheus scrapes the gateway and every sidecar")
    shop.down()
    print(f"SIGTERM: exit code 0 of all {len(OURS)} containers of ours")
