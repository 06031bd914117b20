"""Makes serving/api/generated/ from the contracts in this folder: descriptors and type stubs.

The descriptors go into one FileDescriptorSet, from which `serving.api.wire` builds message classes in
a pool of its own at run time; the stubs are for the type checker alone. `--check` writes nothing and
fails where what is committed is not what these contracts give.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

CONTRACTS = Path(__file__).parent
GENERATED = CONTRACTS.parent / "serving" / "api" / "generated"
DESCRIPTORS = "descriptors.binpb"


def generate(folder: Path) -> None:
    """Write the descriptor set and a stub for each contract into a folder."""
    contracts = sorted(str(path) for path in CONTRACTS.glob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={CONTRACTS}",
            f"--descriptor_set_out={folder / DESCRIPTORS}",
            f"--pyi_out={folder}",
            *contracts,
        ]
    )
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")


def stale_files(fresh: Path) -> list[str]:
    """List generated files whose committed content differs from the fresh one, or that should not be."""
    names = {path.name for path in fresh.iterdir()}
    names |= {path.name for path in GENERATED.iterdir() if path.suffix in {".pyi", ".binpb"}}
    return sorted(name for name in names if _bytes(fresh / name) != _bytes(GENERATED / name))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> None:
    """Generate, or with --check compare."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
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
