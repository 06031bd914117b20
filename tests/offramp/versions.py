"""Checks the wheel with the lowest and the newest versions that it allows: `make packaging`.

Installs the wheel four times: client and server, each with the lowest and the newest versions. Each client
calls each server; all must answer alike. Prints the versions and the size of each installation. It downloads
packages, so it is not part of the tests.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

from tests.offramp.installation import Installation, build_wheel
from tests.offramp.serving_installation import server

CLIENT_PROGRAM = Path(__file__).with_name("client_program.py")
MEGABYTE = 1_000_000
SIZES = ("", "serving", "retarget")
"""Extras whose installations are measured; the first is the base installation."""


def requirements(wheel: Path, extra: str) -> list[Requirement]:
    """Return the direct requirements of the wheel with an extra, and those of the extras in it."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    all_of_them = [
        Requirement(line.removeprefix("Requires-Dist: "))
        for line in lines
        if line.startswith("Requires-Dist: ")
    ]
    found: list[Requirement] = []
    for requirement in all_of_them:
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            if requirement.name != "offramp":
                found.append(requirement)
            else:
                found += [each for inner in requirement.extras for each in requirements(wheel, inner)]
    return found


def lowest(requirement: Requirement) -> str:
    """Return a requirement of the lowest minor version, with its newest patch."""
    version = next(part.version for part in requirement.specifier if part.operator == ">=")
    return f"{requirement.name}=={version}.*"


def install(wheel: Path, folder: Path, extra: str = "", constraints: tuple[str, ...] = ()) -> Installation:
    """Install the wheel with an extra from the package index."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    installation = Installation(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(installation.python), "--disable-pip-version-check"]
    target = f"{wheel}[{extra}]" if extra else str(wheel)
    subprocess.run([*pip, "install", "--quiet", target, *constraints], check=True)
    return installation


def main() -> None:
    """Check the versions and measure the sizes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = build_wheel(folder)
        base = {requirement.name: lowest(requirement) for requirement in requirements(wheel, "")}
        needed = {requirement.name: lowest(requirement) for requirement in requirements(wheel, "serving")}
        # grpcio-reflection requires a newer protobuf than the client.
        old_server = tuple(pin for name, pin in (base | needed).items() if name != "protobuf")
        servers = {
            "lowest": install(wheel, folder / "server-lowest", "serving", old_server),
            "newest": install(wheel, folder / "server-newest", "serving"),
        }
        clients = {
            "lowest": install(wheel, folder / "client-lowest", "", tuple(base.values())),
            "newest": install(wheel, folder / "client-newest"),
        }
        answers = set()
        for server_name, installation in servers.items():
            with server(installation, folder) as address:
                for client_name, client in clients.items():
                    code, output, errors = client.run(
                        client.python, CLIENT_PROGRAM, address, "fashion-mnist", cwd=folder
                    )
                    print(f"{client_name} client, {server_name} server: {errors.strip()}")
                    assert code == 0, errors
                    answers.add(output)
        assert len(answers) == 1, "answers differ"
        for extra in SIZES:
            measured = install(wheel, folder / f"size-{extra}", extra)
            files = [path for path in measured.site_packages.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files) / MEGABYTE
            print(f"{extra or 'base'}: {size:.0f} MB in site-packages")


if __name__ == "__main__":
    main()
