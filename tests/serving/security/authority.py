"""A certificate authority for tests, made with the openssl program as docs/security.md shows."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The authority's own certificate."""
        return self.folder / "ca.pem"

    @property
    def key(self) -> Path:
        """The authority's key."""
        return self.folder / "ca.key"

    def issue(self, name: str, *, hosts: str = "DNS:localhost,IP:127.0.0.1", days: int = 30) -> Pair:
        """Issue a certificate for a common name; negative days give an expired one."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\n")
        openssl("req", *EC, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        signer = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial")
        openssl(
            "x509",
            "-req",
            "-in",
            request,
            "-out",
            pair.certificate,
            *signer,
            "-days",
            days,
            "-extfile",
            extensions,
        )
        return pair


def make_authority(folder: Path) -> Authority:
    """Make an authority in a new folder."""
    folder.mkdir(parents=True)
    authority = Authority(folder)
    files = ("-keyout", authority.key, "-out", authority.certificate)
    openssl("req", "-x509", *EC, *files, "-days", 30, "-subj", "/CN=test authority")
    return authority


def openssl(*arguments: object) -> None:
    """Run openssl; raise CalledProcessError, with its output, if it fails."""
    subprocess.run(("openssl", *map(str, arguments)), check=True, capture_output=True)
