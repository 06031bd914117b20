"""Builds the file system of an image without Docker: the Dockerfile's own steps in a clean Debian root.

It needs root, debootstrap and a package index. The base image is replaced by Debian bookworm with a virtual
environment in /usr/local, so Python and pip have the paths of `python:3.11-slim`.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.deploy.dockerfile import Instruction, Stage, all_instructions

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
BASE_PACKAGES = ("ca-certificates", "python3.11-venv")
HOST_PATHS = {path: str(path) for path in (Path("/proc"), Path("/dev"), Path("/etc/resolv.conf"))}
"""Paths of the host that every step can read."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""The authorities of the host, which may include that of its package index."""
INDEX_VARIABLES = ("PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Variables of the host that the Dockerfile's steps see: the address of the package index."""


class ImageBuilder:
    """Builds stages of a Dockerfile, each in a folder of its own."""

    def __init__(self, stages: Mapping[str, Stage], context: Path, folder: Path) -> None:
        """Set the stages, the folder that COPY reads, and an empty folder to build in."""
        self._stages = dict(stages)
        self._context = context
        self._folder = folder
        self.base_root = folder / "base-image"
        _make_base_image(self.base_root)

    def build(self, name: str) -> Path:
        """Build a stage and the stages that it needs; return its root folder."""
        root = self._folder / name
        if root.exists():
            return root
        stage = self._stages[name]
        source = self.build(stage.base) if stage.base in self._stages else self.base_root
        subprocess.run(["cp", "--archive", "--reflink=auto", str(source), str(root)], check=True)
        executed = all_instructions(self._stages, stage.base) if stage.base in self._stages else []
        for instruction in stage.instructions:
            if instruction.name == "COPY":
                self._copy(instruction, root / workdir(executed).relative_to("/"))
            elif instruction.name == "RUN":
                self._run(instruction, root, executed)
            elif instruction.name == "WORKDIR":
                (root / Path(instruction.arguments).relative_to("/")).mkdir(parents=True, exist_ok=True)
            executed.append(instruction)
        return root

    def _copy(self, instruction: Instruction, folder: Path) -> None:
        *patterns, target = instruction.words
        for source in (path for pattern in patterns for path in sorted(self._context.glob(pattern))):
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / target, ignore=ignored)
            else:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / target)

    def _run(self, instruction: Instruction, root: Path, executed: Sequence[Instruction]) -> None:
        binds = {**HOST_PATHS, CERTIFICATES: str(CERTIFICATES)}
        for mount in instruction.mounts:
            source = self.build(mount["from"]) / mount["source"].lstrip("/")
            binds[source] = mount["target"]
        command = ["sh", "-ec", f"cd {workdir(executed)} && {instruction.arguments}"]
        host = {name: os.environ[name] for name in INDEX_VARIABLES if name in os.environ}
        _chroot(root, command, {**environment(executed), **host, "PIP_CERT": str(CERTIFICATES)}, binds)


def workdir(instructions: Sequence[Instruction]) -> Path:
    """Return the folder in which the instructions leave the build."""
    folder = Path("/")
    for instruction in instructions:
        if instruction.name == "WORKDIR":
            folder /= instruction.arguments
    return folder


def environment(instructions: Sequence[Instruction]) -> dict[str, str]:
    """Return the variables that the instructions set, and PATH."""
    variables = {"PATH": PATH}
    for instruction in instructions:
        if instruction.name == "ENV":
            for word in instruction.words:
                name, _, variables[name] = word.partition("=")
    return variables


def _make_base_image(root: Path) -> None:
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(root)], check=True)
    install = f"apt-get install --yes --no-install-recommends {shlex.join(BASE_PACKAGES)}"
    steps = f"{install} && apt-get clean && python3.11 -m venv /usr/local"
    _chroot(root, ["sh", "-ec", steps], {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}, HOST_PATHS)


def _chroot(
    root: Path, command: Sequence[str], variables: Mapping[str, str], binds: Mapping[Path, str]
) -> None:
    """Run a command as root in a root folder, with paths of the host bound there; raise if it fails.

    The bindings are in a mount namespace of their own, which ends with the command.
    """
    lines = []
    for source, target in binds.items():
        inside = root / target.lstrip("/")
        if source.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.touch()
        lines.append(f"mount --options bind,ro {shlex.quote(str(source))} {shlex.quote(str(inside))}")
    values = [f"{name}={value}" for name, value in variables.items()]
    lines.append("exec " + shlex.join(["chroot", str(root), "env", "-i", *values, *command]))
    subprocess.run(["unshare", "--mount", "sh", "-ec", "\n".join(lines)], check=True)
