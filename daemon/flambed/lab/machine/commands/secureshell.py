"""ssh-keygen and sshd -t: the keys that lie in the files of a pretend host."""

import asyncssh

from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, options, program

_KINDS = {"ed25519": "ssh-ed25519", "ecdsa": "ecdsa-sha2-nistp256", "rsa": "ssh-rsa"}


@program("ssh-keygen")
async def ssh_keygen(process: Process, args: list[str]) -> int:
    """Make a key pair (-t KIND -f FILE [-C COMMENT]), print the public half of a private key (-y), or a fingerprint (-l)."""
    found, _ = options(args, "qylt:N:C:f:P:b:")
    if "f" not in found:
        raise UsageError("the lab's ssh-keygen asks nothing: name a file with -f", 1)
    path = process.path(found["f"])
    if not {"y", "l"} & set(found):
        return await _make(process, path, found)
    try:
        text = process.machine.files.read(path).decode(errors="replace")
        key = asyncssh.import_private_key(text) if "y" in found else _any_key(text)
    except (OSError, asyncssh.KeyImportError) as error:
        await process.err(f'Load key "{found["f"]}": {getattr(error, "strerror", None) or "invalid format"}\n')
        return 255
    if "l" in found:
        await process.out(f"256 {key.get_fingerprint()} {key.get_comment() or 'no comment'} (ED25519)\n")
    else:
        await process.out(key.export_public_key("openssh").decode())
    return 0


async def _make(process: Process, path: str, found: dict[str, str]) -> int:
    files = process.machine.files
    if files.find(path) is not None:
        await process.out(f"{found['f']} already exists.\nOverwrite (y/n)? ")
        return 1
    kind = _KINDS.get(found.get("t", "ed25519"))
    if kind is None:
        raise UsageError(f"unknown key type {found['t']}", 255)
    key = asyncssh.generate_private_key(kind, comment=found.get("C", f"{process.user}@{process.machine.hostname}"))
    files.write(path, key.export_private_key("openssh"), mode=0o600, owner=process.user)
    files.write(f"{path}.pub", key.export_public_key("openssh"), owner=process.user)
    if "q" not in found:
        await process.out(f"Your identification has been saved in {found['f']}\n")
    return 0


def _any_key(text: str) -> asyncssh.SSHKey:
    return asyncssh.import_private_key(text) if "PRIVATE KEY" in text else asyncssh.import_public_key(text)


@program("sshd")
async def sshd(process: Process, args: list[str]) -> int:
    """Check that the host keys can be read (-t); a pretend host's sshd is no process."""
    if args != ["-t"]:
        raise UsageError("the lab's sshd runs already: it knows -t only", 1)
    files = process.machine.files
    for name in files.directory("/etc/ssh").names():
        if name.startswith("ssh_host_") and name.endswith("_key"):
            try:
                asyncssh.import_private_key(files.read(f"/etc/ssh/{name}"))
            except asyncssh.KeyImportError:
                await process.err(f"Unable to load host key: /etc/ssh/{name}\n")
                return 1
    return 0
