"""Certificates for the tests, made by openssl(1): an authority, what it signed, and one that has expired."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

OPENSSL_TIMEOUT_S = 30
LOOPBACK = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost"
CA_CONFIG = """
[ca]
default_ca = here
[here]
dir = {directory}
database = $dir/index.txt
new_certs_dir = $dir
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    cert: Path
    key: Path

    def server(self, client_ca: Path | None = None) -> ssl.SSLContext:
        """A server's context; with `client_ca` it wants a certificate of its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Authority:
    """A scratch certificate authority in `directory`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.cert, self._key = self.directory / "ca.pem", self.directory / "ca.key"
        self._config = self.directory / "ca.cnf"
        self._config.write_text(CA_CONFIG.format(directory=self.directory))
        (self.directory / "index.txt").touch()
        _openssl("req", "-x509", *_new_key(self._key), "-subj", f"/CN={name}", "-days", "2", "-out", self.cert)

    def issue(self, name: str, *validity: str, names: str = LOOPBACK) -> Identity:
        """A certificate for `names`; `validity` as openssl-ca(1) takes it."""
        made = Identity(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(names)
        _openssl("req", *_new_key(made.key), "-subj", f"/CN={name}", "-out", request)
        signing = ("-config", self._config, "-cert", self.cert, "-keyfile", self._key, "-extfile", extensions)
        _openssl("ca", "-batch", "-notext", *signing, "-in", request, "-out", made.cert, *(validity or ("-days", "2")))
        return made

    def issue_expired(self) -> Identity:
        """A certificate that was good for one day, long ago."""
        return self.issue("expired", "-startdate", "20200101000000Z", "-enddate", "20200102000000Z")


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=OPENSSL_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
