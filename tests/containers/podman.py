"""podman and buildah with a storage and settings of their own, which a caller throws away with its folder."""

import os
import shutil
import subprocess
import time
from pathlib import Path

# What podman may need where it runs in a container, or in a machine like one, itself: another runtime than its own,
# limits that it may set, no cgroups. The first settings that work are taken.
TRIES = [
    {"runtime": runtime, "ulimits": ulimits, "cgroups": cgroups}
    for cgroups in ("enabled", "disabled")
    for ulimits in ([], ["nofile=10000:10000", "nproc=10000:10000"])
    for runtime in ("crun", "runc")
]


class Failed(Exception):
    """A command that had to work, with what it printed."""


class Podman:
    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "networks").mkdir(parents=True)
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
        )
        self.env = dict(
            os.environ,
            CONTAINERS_STORAGE_CONF=str(folder / "storage.conf"),
            CONTAINERS_CONF=str(folder / "containers.conf"),
        )
        self._configure({"runtime": "crun", "ulimits": [], "cgroups": "enabled"})

    def _configure(self, settings: dict) -> None:
        (self.folder / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = {settings['ulimits']}\ncgroups = \"{settings['cgroups']}\"\n"
            f"[engine]\nruntime = \"{settings['runtime']}\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n"
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.folder}/networks"\n'
        )

    def probe(self, program: Path) -> None:
        """Builds the simplest image that there is."""
        folder = self.folder / "probe"
        folder.mkdir()
        shutil.copy(program, folder / "probe")
        dockerfile = folder / "Dockerfile"
        dockerfile.write_text('FROM scratch AS build\nFROM scratch\nCOPY --from=build /probe /\nENTRYPOINT ["/probe"]\n')
        self.build("probe", dockerfile, folder, folder)

    def settle(self) -> str:
        """Finds settings with which that image runs; which ones these are."""
        error = []
        for settings in TRIES:
            self._configure(settings)
            tried = self.try_run("podman", "run", "--rm", "--network", "none", "probe", "version")
            if tried.returncode == 0:
                return ", ".join(f"{key} {value}" for key, value in settings.items() if value)
            error = tried.stderr.strip().splitlines()[-1:]
        raise Failed(" ".join(error))

    def try_run(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess:
        return subprocess.run(command, env=self.env, text=True, capture_output=True, timeout=timeout)

    def run(self, *command: str, timeout: float = 120) -> str:
        done = self.try_run(*command, timeout=timeout)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def build(self, image: str, dockerfile: Path, context: Path, stage: Path, **args: str) -> None:
        """Builds the last stage of a Dockerfile. What it copies from the stage `build` is in the folder `stage`."""
        flags = [f"--build-arg={key}={value}" for key, value in args.items()]
        self.run(
            *("buildah", "build", "--quiet", "--isolation", "chroot", "--pull=never"),
            *(f"--build-context=build={stage}", *flags, f"--file={dockerfile}", f"--tag={image}", str(context)),
        )

    def inspect(self, name: str, form: str) -> str:
        return self.run("podman", "inspect", name, "--format", form)

    def start(self, name: str, image: str, *args: str, options: tuple = ()) -> None:
        self.run("podman", "run", "--detach", "--name", name, *options, image, *args)

    def logs(self, name: str) -> str:
        logs = self.try_run("podman", "logs", name)
        return logs.stdout + logs.stderr

    def stop(self, *names: str, within: float = 45) -> None:
        """Ends containers by SIGTERM, together, and wants 0 for the exit code of each."""
        self.run("podman", "kill", "--signal", "TERM", *names)
        codes = self.run("podman", "wait", *names, timeout=within).split()
        if codes != ["0"] * len(names):
            raise Failed(f"exit codes of {' '.join(names)} on SIGTERM: {' '.join(codes)}")

    def get(self, name: str, url: str, *options: str) -> str:
        """What curl gets from within the network of a container, which needs no curl for that."""
        pid = self.inspect(name, "{{.State.Pid}}")
        return self.run("nsenter", "--net", "--target", pid, "curl", "-sS", "--max-time", "5", *options, url)

    def remove_all(self) -> None:
        self.try_run("podman", "rm", "--all", "--force", "--time", "0")


def within(seconds: float, what: str, attempt, pause: float = 0.1):
    """Asks `attempt` until it gives something, and what that is."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := attempt():
                return found
            last = "not yet"
        except Failed as error:
            last = str(error)
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:.0f} s: {last}")
        time.sleep(pause)
