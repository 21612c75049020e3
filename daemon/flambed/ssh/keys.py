"""Keys as text: made, read, and judged with words for people."""

from __future__ import annotations

import functools

import asyncssh


def new_host_key() -> tuple[str, str]:
    """A fresh ed25519 key pair: (private, public), both in OpenSSH format, the public one without a comment."""
    private = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh").decode()
    return private, public_key_of(private)


def public_key_of(private: str) -> str:
    """The public half of a private key, in OpenSSH format and without a comment.

    Raises:
        ValueError: see `check_private_key`.
    """
    return as_text(private_key(private))


def as_text(key: asyncssh.SSHKey) -> str:
    """A public key, or the public half of a private one, in OpenSSH format and without a comment."""
    algorithm, data = key.export_public_key("openssh").decode().split()[:2]
    return f"{algorithm} {data}"


def check_private_key(text: str) -> None:
    """Raise a ValueError that says what is wrong with `text`, unless it is a private key that can be used."""
    private_key(text)


@functools.lru_cache(maxsize=64)  # an RSA key takes milliseconds to parse, and each host of a cluster has the same
def private_key(text: str) -> asyncssh.SSHKey:
    """`text`, parsed; raises a ValueError as `check_private_key` does."""
    text = text.strip() + "\n"
    try:
        return asyncssh.import_private_key(text)
    except asyncssh.KeyImportError as error:
        raise ValueError(_what_is_wrong(text, str(error))) from None


def _what_is_wrong(text: str, why: str) -> str:
    first = text.lstrip().partition("\n")[0]
    if "assphrase" in why:
        return (
            "the key is encrypted with a passphrase, which a service cannot type: "
            "give one without (`ssh-keygen -p -N '' -f COPY` takes it off a copy)"
        )
    if first.startswith(("ssh-", "ecdsa-", "sk-")) or "PUBLIC KEY" in first:
        return "this is a public key: give the private one, usually the file of the same name without `.pub`"
    if first.startswith("PuTTY-User-Key-File"):
        return "this is a key in PuTTY's format: export it as an OpenSSH key (PuTTYgen, Conversions)"
    if not first:
        return "the key file is empty: give the private key that belongs to `key_name`"
    if "PRIVATE KEY" in first:
        return f"this private key is damaged or of an unknown kind ({why}): copy the whole file again"
    return "this is no private key: give one in OpenSSH or PEM format, as EC2 hands it out"


@functools.lru_cache(maxsize=256)
def public_key(text: str) -> asyncssh.SSHKey:
    """`text`, a line in OpenSSH format, parsed; raises a ValueError that quotes it."""
    try:
        return asyncssh.import_public_key(text)
    except asyncssh.KeyImportError:
        raise ValueError(f"this is no public key in OpenSSH format: {text[:40]!r}") from None
