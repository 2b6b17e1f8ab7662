"""A node's own key: made once, never sent. The node's id is the hash of its public half."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dmcore.host.errors import FileBroken
from dmcore.host.files import create_file, make_dir, read_private
from dmcore.model.ids import NodeId
from dmcore.model.names import node_id_of

KEY_FILE = "node.key"


@dataclass(frozen=True)
class Identity:
    """Who this node is. `key_path` is the PEM file that TLS contexts load."""

    node: NodeId
    key_path: Path
    private_key: EllipticCurvePrivateKey = field(repr=False)


def load_identity(state_dir: Path) -> Identity:
    """This node's identity; its key is made at the first call, whoever else calls at the same time.

    Raises:
        FileExposed: others than the owner have rights on the key.
        FileBroken: the key file holds no P-256 key.
    """
    path = make_dir(state_dir) / KEY_FILE
    private_key = load_or_make_key(path)
    return Identity(node_id_of(public_der(private_key)), path, private_key)


def load_or_make_key(path: Path) -> EllipticCurvePrivateKey:
    """The P-256 key in a PEM file for its owner only, made if there is none.

    Raises:
        FileExposed: others than the owner have rights on it.
        FileBroken: it holds no P-256 key.
    """
    if not path.exists():
        pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):  # another process was first: its key is the node's
            create_file(path, pem)
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as problem:
        raise FileBroken(path=str(path), problem=f"not a private key in PEM: {problem}") from problem
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise FileBroken(path=str(path), problem="not a P-256 key")
    return key


def public_der(key: EllipticCurvePrivateKey) -> bytes:
    """The public half as it is hashed into ids."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
