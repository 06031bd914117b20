"""Bearer tokens: a file with one hashed token a line.

A line is `NAME GROUPS SHA256`, such as `dashboard infer,read 9f86d0...`; empty lines and lines that begin
with # are ignored. The file holds no secret. A token is 32 random bytes, so a plain SHA-256 is enough:
only a password, which can be guessed, needs a slow hash.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import structlog

from serving.errors import ConfigurationError, OfframpError
from serving.files import atomic_write
from serving.security.permissions import Group

_LOG = structlog.get_logger(__name__)

TOKEN_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = 3


@dataclass(frozen=True)
class Token:
    """A token's name, which is its caller's identity, and the calls that it allows."""

    name: str
    groups: frozenset[Group]
    digest: str
    """SHA-256 of the token, in hexadecimal."""

    def line(self) -> str:
        """Return its line in a token file."""
        return f"{self.name} {','.join(sorted(self.groups))} {self.digest}"


def new_token(name: str, groups: frozenset[Group]) -> tuple[str, Token]:
    """Return a new random token and its entry for the file; raise ConfigurationError for a bad name."""
    _check_name(name)
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    return secret, Token(name, groups, _digest(secret))


def add_token(path: Path, token: Token) -> None:
    """Add a token's line to a file, which is made if it is missing.

    Raises ConfigurationError if the file is invalid, or has a token of this name.
    """
    if path.exists() and path.read_bytes().strip():
        if token.name in {known.name for known in _read(path)}:
            raise ConfigurationError(f"token file {path}: already has a token named {token.name}")
        text = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
    else:
        text = ""
    with atomic_write(path) as file:
        file.write(f"{text}{token.line()}\n".encode())


class TokenFile:
    """The tokens that the server accepts. `refresh` reads the file again; `find` may be called meanwhile."""

    def __init__(self, path: Path) -> None:
        """Read the file; raise ConfigurationError, with the line's number, if it is invalid."""
        self._path = path
        self._tokens = _read(path)
        self._complaint: str | None = None

    def refresh(self) -> None:
        """Read the file again. If it is unreadable or invalid, log one line and keep the old tokens."""
        try:
            self._tokens = _read(self._path)
            self._complaint = None
        except ConfigurationError as error:
            if str(error) != self._complaint:  # once, not at every refresh
                _LOG.error("token file not read; the old tokens stay valid", error=str(error))
            self._complaint = str(error)

    def find(self, secret: str) -> Token | None:
        """Return the token, or None. The time does not depend on which token matches, or how closely."""
        digest = _digest(secret)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def _read(path: Path) -> tuple[Token, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"token file {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"token file {path}: expected UTF-8 text, got byte {error.start}") from error
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            token = _parse(line)
        except OfframpError as error:
            raise ConfigurationError(f"token file {path}, line {number}: {error}") from error
        if token.name in tokens:
            raise ConfigurationError(f"token file {path}, line {number}: the name {token.name} occurs twice")
        tokens[token.name] = token
    if not tokens:
        raise ConfigurationError(f"token file {path}: expected at least one token, got none")
    return tuple(tokens.values())


def _parse(line: str) -> Token:
    fields = line.split()
    if len(fields) != _FIELDS:
        raise ConfigurationError(f"expected NAME GROUPS SHA256, got {len(fields)} fields")
    name, groups, digest = fields
    _check_name(name)
    if not _DIGEST.fullmatch(digest):  # never shown: it may be a token pasted by mistake
        raise ConfigurationError("expected the SHA-256 of a token, 64 hexadecimal digits in lower case")
    return Token(name, parse_groups(groups), digest)


def parse_groups(text: str) -> frozenset[Group]:
    """Parse groups separated by commas; raise ConfigurationError for an unknown one."""
    known = {group.value: group for group in Group}
    for name in text.split(","):
        if name not in known:
            raise ConfigurationError(f'groups: expected some of {", ".join(known)}, got "{name[:64]}"')
    return frozenset(known[name] for name in text.split(","))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f'token name: expected 1 to 64 letters, digits, ".", "_" or "-", got "{name[:64]}"'
        )
