"""Generate serving/api/generated/ from the .proto files in this folder: descriptors and type stubs.

The descriptors are one FileDescriptorSet. `serving.api.wire` builds message classes from it at run time, in a
private pool, so they do not depend on a protobuf version. The stubs are for the type checker only. `--check`
writes nothing and fails if the committed files are out of date.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
GENERATED = PROTOS.parent / "serving" / "api" / "generated"
DESCRIPTORS = "descriptors.binpb"


def generate(folder: Path) -> None:
    """Write the descriptor set, and a stub for each .proto file, into a folder."""
    protos = sorted(str(path) for path in PROTOS.glob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--descriptor_set_out={folder / DESCRIPTORS}",
            f"--pyi_out={folder}",
            *protos,
        ]
    )
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")


def stale_files(fresh: Path) -> list[str]:
    """Return the names of committed files that differ from fresh ones, or have no fresh one."""
    names = {path.name for path in fresh.iterdir()}
    names |= {path.name for path in GENERATED.iterdir() if path.suffix in {".pyi", ".binpb"}}
    return sorted(name for name in names if _bytes(fresh / name) != _bytes(GENERATED / name))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> None:
    """Generate the files, or compare them with --check."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    check = parser.parse_args().check
    if not check:
        generate(GENERATED)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = stale_files(Path(folder))
    if stale:
        sys.exit(f"stale in {GENERATED.name}/: {', '.join(stale)}; run `make protos`")


if __name__ == "__main__":
    main()
