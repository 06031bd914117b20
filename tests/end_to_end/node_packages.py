"""Install the npm packages of the Node client, once."""

import functools
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / "node_client"
INSTALL_SECONDS = 60.0


@functools.cache
def why_missing() -> str | None:
    """Install the packages unless they are installed; return the reason if that fails, else None."""
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    programs = [name for name in ("node", "npm") if shutil.which(name) is None]
    if programs:
        return f"needs {' and '.join(programs)}"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return None
    try:
        ended = subprocess.run(
            ["npm", "ci"], cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"needs npm packages: npm ci took longer than {INSTALL_SECONDS:g} s"
    if ended.returncode != 0:
        return f"needs npm packages: {next(iter(ended.stderr.splitlines()), 'npm ci failed')}"
    return None
