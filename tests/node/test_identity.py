import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dmcore.host.errors import FileBroken, FileExposed, NodeRunning
from dmcore.host.lock import StateLock
from dmcore.node.identity import load_identity


def test_made_once(tmp_path: Path) -> None:
    first, second = load_identity(tmp_path / "state"), load_identity(tmp_path / "state")
    assert first.node == second.node
    spki = first.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert first.node == hashlib.sha256(spki).hexdigest()
    assert first.key_path.stat().st_mode & 0o777 == 0o600
    assert "private" not in repr(first)


def test_racing_for_the_first_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        nodes = set(pool.map(lambda _: load_identity(tmp_path / "state").node, range(8)))
    assert len(nodes) == 1


def test_exposed_key(tmp_path: Path) -> None:
    load_identity(tmp_path).key_path.chmod(0o640)
    with pytest.raises(FileExposed):
        load_identity(tmp_path)


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), generate_private_key(SECP384R1())], ids=["ed", "p384"])
def test_another_kind_of_key(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(FileBroken, match="not a P-256 key"):
        load_identity(tmp_path)


def test_no_key_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_text("garbage")
    (tmp_path / "node.key").chmod(0o600)
    with pytest.raises(FileBroken, match="not a private key"):
        load_identity(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with StateLock(tmp_path):
        with pytest.raises(NodeRunning, match="another process") as refused:
            StateLock(tmp_path)
        assert not refused.value.permanent
    StateLock(tmp_path).release()


def test_freed_when_its_process_dies(tmp_path: Path) -> None:
    script = "import sys; from dmcore.host.lock import StateLock; from pathlib import Path\n"
    script += "lock = StateLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(NodeRunning):
            StateLock(tmp_path)
        child.kill()
    StateLock(tmp_path).release()
