"""Builds the image `serving-cpu` without Docker and tests it: `make container-check`.

The Dockerfile's steps run in a clean Debian root. Then its ENTRYPOINT runs there as the image's user, with a
read-only root file system, and without capabilities or network. This needs root on Linux, debootstrap and a
package index, and takes about two minutes.
"""

import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.dockerfile import Instruction, all_instructions, health_command, last, read_dockerfile
from tests.deploy.image_root import ImageBuilder, environment, workdir

ROOT = Path(__file__).resolve().parents[2]
TARGET = "serving-cpu"
MODEL = "fashion-mnist"
START_SECONDS = 60.0
END_SECONDS = 60.0
SITE_PACKAGES = "usr/local/lib/python3.11/site-packages"

MAKE_ROW = "import numpy; numpy.save('state/row.npy', numpy.zeros((1, 1, 28, 28), numpy.uint8))"
READ_HTTP = """
import urllib.request
for path in ("livez", "readyz", "metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:8002/{path}", timeout=10) as answer:
        print(answer.read().decode())
"""
WRITES = "import pathlib; print(*pathlib.Path('/tmp').iterdir()); pathlib.Path('x').touch()"


@dataclass(frozen=True)
class Container:
    """A running container: its process and log, and the user and variables of its commands."""

    process: subprocess.Popen[str]
    log: Path
    owner: int
    group: int
    variables: Sequence[str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the container's user in its namespaces."""
        return subprocess.run(
            [
                *("nsenter", "--target", str(self.process.pid), "--mount", "--net", "--root", "--wd"),
                *("--setuid", str(self.owner), "--setgid", str(self.group)),
                *("env", "-i", *self.variables, *command),
            ],
            capture_output=True,
            text=True,
        )

    def output(self, *command: str) -> str:
        """Run a command; return its stdout, and raise AssertionError if it fails."""
        finished = self.run(*command)
        assert finished.returncode == 0, f"{command}: exit code {finished.returncode}, {finished.stderr}"
        return finished.stdout


def main() -> None:
    """Build the image, test it and print its sizes."""
    if os.geteuid() != 0:
        sys.exit("container-check: expected to run as root, which debootstrap and chroot need")
    stages = read_dockerfile((ROOT / "Dockerfile").read_text())
    instructions = all_instructions(stages, TARGET)
    with tempfile.TemporaryDirectory(prefix="offramp-container-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        builder = ImageBuilder(stages, ROOT, folder)
        image = builder.build(TARGET)
        with _running(image, folder / "state", instructions) as container:
            check_requests(container, health_command(instructions))
            check_isolation(container)
            check_stop(container)
            check_log(container)
        print(f"site-packages {_megabytes(image / SITE_PACKAGES):.0f} MB", end=", ")
        print(f"image {_megabytes(image):.0f} MB", end=", ")
        print(f"its base image {_megabytes(builder.base_root):.0f} MB")


def check_requests(container: Container, health: Sequence[str]) -> None:
    """Check that the server becomes ready, and answers the health check, a row, the probes and a scrape."""
    assert container.process.stdout
    readable, _, _ = select.select([container.process.stdout], [], [], START_SECONDS)
    line = container.process.stdout.readline() if readable else ""
    assert line.startswith("ready grpc="), f"expected the ready line, got {line!r}"
    print(line, end="")
    assert container.output(*health) == "serving\n"
    container.output("python", "-c", MAKE_ROW)
    print(container.output("offramp", "predict", "--model", MODEL, "state/row.npy"), end="")
    container.output("rm", "state/row.npy")
    page = container.output("python", "-c", READ_HTTP)
    assert page.startswith("alive\n\nready\n"), f"expected the answers of the probes, got {page[:100]!r}"
    answered = [line for line in page.splitlines() if line.startswith("offramp_requests_total{")]
    assert any('outcome="ok"' in line and line.endswith(" 1.0") for line in answered), answered


def check_isolation(container: Container) -> None:
    """Check that the server is unprivileged, writes nothing to /tmp, and has no torch."""
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    values = dict(line.split(":\t", 1) for line in status.splitlines())
    assert values["Uid"].split() == [str(container.owner)] * 4, values["Uid"]
    assert int(values["CapEff"], 16) == int(values["CapBnd"], 16) == 0, values["CapBnd"]
    written = container.run("python", "-c", WRITES)
    assert written.stdout == "\n", f"expected nothing in /tmp, got {written.stdout}"
    assert "Read-only file system" in written.stderr, written.stderr
    assert container.run("python", "-c", "import torch").returncode == 1


def check_stop(container: Container) -> None:
    """Check that SIGTERM ends the server with exit code 0."""
    container.process.send_signal(signal.SIGTERM)
    code = container.process.wait(END_SECONDS)
    assert code == 0, f"expected exit code 0 after SIGTERM, got {code}"


def check_log(container: Container) -> None:
    """Check that the log is only lines of JSON: no library writes warnings to stderr."""
    for line in container.log.read_text().splitlines():
        assert line.startswith("{"), f"expected a line of JSON in the log, got {line}"


@contextmanager
def _running(image: Path, state: Path, instructions: Sequence[Instruction]) -> Iterator[Container]:
    """Run the image's ENTRYPOINT, with `models/` of the repository and a state folder mounted."""
    owner, group = map(int, last(instructions, "USER").arguments.split(":"))
    state.mkdir()
    os.chown(state, owner, group)
    where = workdir(instructions)
    inside = image / where.relative_to("/")
    variables = [f"{name}={value}" for name, value in environment(instructions).items()]
    unprivileged = [
        *("setpriv", f"--reuid={owner}", f"--regid={group}", "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all", "env", "-i", *variables),
        *("sh", "-ec", f'cd {where} && exec "$@"', "sh", *last(instructions, "ENTRYPOINT").words),
    ]
    steps = f"""
        ip link set lo up
        mount --bind {image} {image}
        mount --bind {ROOT / "models"} {inside / "models"}
        mount -o remount,bind,ro {inside / "models"}
        mount --bind {state} {inside / "state"}
        mount -t tmpfs tmpfs {image / "tmp"}
        mount --bind /proc {image / "proc"}
        mount --bind /dev {image / "dev"}
        mount -o remount,bind,ro {image}
        exec {shlex.join(["chroot", str(image), *unprivileged])}
    """
    log = state.with_name("log")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", steps],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield Container(process, log, owner, group, variables)
    finally:
        process.kill()
        process.wait()
        print(log.read_text(), end="", file=sys.stderr)


def _megabytes(folder: Path) -> float:
    used = subprocess.run(
        ["du", "--summarize", "--one-file-system", "--block-size=1", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(used.stdout.split()[0]) / 1e6


if __name__ == "__main__":
    main()
