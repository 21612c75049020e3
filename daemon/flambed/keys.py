"""The secrets of each cluster, in the state folder: one folder a cluster, 0700, its files 0600.

Kept from the first `up` until the cluster is gone: the login key that the caller sent, the host key that the cluster's
hosts start with, the key with which its orchestrator logs in to its factories, and each user data that a launch was made of, byte by byte, so that a RunInstances that is replayed,
even by a newer version, sends what AWS saw before. Nothing of it is ever part of a log line, a fact or a repr.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

from flambed import ssh
from flambed.errors import Reason, StepError
from flambed.files import make_private, part, remove_folder, sync_folder, write_atomically

_LOGIN_KEY = "login_key"
_HOST_KEY = "host_key"
_PEER_KEY = "peer_key"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair, both halves in OpenSSH format; the public one without a comment."""

    private: str = field(repr=False)
    public: str


class KeyStore:
    """The secrets of all clusters of one service, below `state_dir`/keys."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "keys"
        self._making = threading.Lock()  # its callers may be threads

    def keep_login_key(self, cluster_id: str, private: str) -> None:
        """Keep the private key with which people and the service log in to this cluster's hosts; replaces an older one.

        Raises:
            ValueError: it is no private key that can be used (see `ssh.check_private_key`).
        """
        ssh.check_private_key(private)
        write_atomically(self._folder(cluster_id) / _LOGIN_KEY, private.encode(), durable=True)

    def has_login_key(self, cluster_id: str) -> bool:
        """Whether a login key is kept for this cluster."""
        return (self._root / part(cluster_id) / _LOGIN_KEY).exists()

    def login_key(self, cluster_id: str) -> str:
        """The kept login key.

        Raises:
            StepError: none is kept.
        """
        return self._read(cluster_id, _LOGIN_KEY, "login key").decode()

    def host_key(self, cluster_id: str) -> KeyPair:
        """The key pair that this cluster's hosts start with: made at the first call, the same ever after."""
        return self._pair(cluster_id, _HOST_KEY)

    def peer_key(self, cluster_id: str) -> KeyPair:
        """The key pair with which the orchestrator logs in to the factories: made once, as the host key is."""
        return self._pair(cluster_id, _PEER_KEY)

    def _pair(self, cluster_id: str, name: str) -> KeyPair:
        path = self._folder(cluster_id) / name
        with self._making:
            if not path.exists():
                private, _ = ssh.new_host_key()
                write_atomically(path, private.encode(), durable=True)
        private = path.read_text()
        return KeyPair(private, ssh.public_key_of(private))

    def kept_host_key(self, cluster_id: str) -> str | None:
        """The public half of the key pair that `host_key` returns, if that was made before."""
        path = self._root / part(cluster_id) / _HOST_KEY
        return ssh.public_key_of(path.read_text()) if path.exists() else None

    def keep_user_data(self, cluster_id: str, user_data: bytes) -> str:
        """Keep the user data of a launch; the answer is its digest (SHA-256, hex), under which it is found again."""
        digest = hashlib.sha256(user_data).hexdigest()
        path = self._folder(cluster_id) / _user_data(digest)
        if not path.exists():
            write_atomically(path, user_data, durable=True)
        return digest

    def user_data(self, cluster_id: str, digest: str) -> bytes:
        """The user data of that digest, exactly as it was kept.

        Raises:
            StepError: none is kept, or its bytes are not the ones that were.
        """
        kept = self._read(cluster_id, _user_data(digest), "user data")
        if hashlib.sha256(kept).hexdigest() != digest:
            raise StepError(
                Reason.BAD_REQUEST,
                "damaged file",
                f"the kept user data {digest[:12]} of cluster {cluster_id} is damaged, and no launch can be repeated "
                f"with it: take the cluster down and up again",
            )
        return kept

    def forget(self, cluster_id: str) -> None:
        """Remove everything that is kept for this cluster."""
        remove_folder(self._root / part(cluster_id))

    def _folder(self, cluster_id: str) -> Path:
        folder = self._root / part(cluster_id)
        if not folder.exists():
            make_private(folder)
            sync_folder(self._root)
        return folder

    def _read(self, cluster_id: str, name: str, what: str) -> bytes:
        path = self._root / part(cluster_id) / part(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise StepError(
                Reason.BAD_REQUEST,
                "missing file",
                f"the {what} of cluster {cluster_id} is not in the state folder: run `flambectl up FILE` again",
            ) from None


def _user_data(digest: str) -> str:
    return f"user_data-{digest}"
