"""A certificate authority for a test, and contexts of both sides."""

import ssl
from pathlib import Path

import trustme


class Authority:
    """Issues certificates into a folder as PEM files."""

    def __init__(self, folder):
        self.ca = trustme.CA()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pem = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.pem)

    def issue(self, *names, stem="server"):
        """Paths of (certificate chain, key); the same stem overwrites, as a renewal does."""
        issued = self.ca.issue_cert(*names)
        certificate, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        # Each by rename, so that a watcher sees whole files only.
        for path, data in ((key, issued.private_key_pem.bytes()), (certificate, b"".join(c.bytes() for c in issued.cert_chain_pems))):
            part = path.with_suffix(path.suffix + ".part")
            part.write_bytes(data)
            part.rename(path)
        return certificate, key

    def client(self, certificate=None, alpn=None):
        context = ssl.create_default_context(cafile=str(self.pem))
        if certificate:
            context.load_cert_chain(*map(str, certificate))
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def server(self, *names, require_client=False, alpn=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, self.issue(*names, stem="upstream")))
        if require_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(str(self.pem))
        if alpn:
            context.set_alpn_protocols(alpn)
        return context
