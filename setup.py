"""Builds the wheel, in which `serving` and `training` are `offramp.serving` and `offramp.training`.

Other projects have packages with such names. So the build puts both folders below `offramp`, the only
top-level package of the wheel, and changes their import statements. An editable install keeps the names.
"""

import ast
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

MOVED = ("serving", "training")
MONITORING = (
    *(f"deploy/prometheus/{name}.yaml" for name in ("prometheus", "rules", "rules_test")),
    "deploy/grafana/offramp.json",
)
"""Files that `offramp monitoring` writes; the wheel has them below `offramp`."""


def move_imports(source: str) -> str:
    """Return a module's source with `from serving` and `from training` below `offramp`.

    Relative imports do not change. Raises ValueError for `import serving...`, because it would bind another
    name, and for a second `from` on the same line, because the first one moves its column.
    """
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in MOVED:
            line, column = lines[node.lineno - 1], node.col_offset
            if not line.startswith("from ", column):
                raise ValueError(f"line {node.lineno}: expected `from ` at column {column}, got {line!r}")
            lines[node.lineno - 1] = f"{line[:column]}from offramp.{line[column + len('from ') :]}"
        elif isinstance(node, ast.Import) and any(name.name.split(".")[0] in MOVED for name in node.names):
            raise ValueError(f"line {node.lineno}: expected `from PACKAGE import NAME`, got `import`")
    return "\n".join(lines)


class BuildBelowOfframp(build_py):
    """Copies the modules and changes their imports, and copies the files for monitoring."""

    def run(self) -> None:
        """Build the packages, and add the files for monitoring. Files of an earlier build are removed."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for name in MONITORING:
            target = Path(self.build_lib, "offramp", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))

    def get_source_files(self) -> list[str]:
        """Return the files that the source distribution contains."""
        return [*super().get_source_files(), *MONITORING]

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy one module; return its new path, and whether it was copied."""
        path, is_copied = super().build_module(module, module_file, package)
        if is_copied:
            source = move_imports(Path(module_file).read_text(encoding="utf-8"))
            Path(path).write_text(source, encoding="utf-8")
        return path, is_copied


if __name__ == "__main__":
    folders = find_packages(include=[pattern for name in MOVED for pattern in (name, f"{name}.*")])
    if "editable_wheel" in sys.argv:
        setup(packages=["offramp", *folders])
    else:
        setup(
            packages=["offramp", *(f"offramp.{name}" for name in folders)],
            package_dir={f"offramp.{name}": name for name in MOVED},
            cmdclass={"build_py": BuildBelowOfframp},
        )
