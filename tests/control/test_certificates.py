import ipaddress
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dmcore.api.server_trust import fingerprint_of, pinned_context
from dmcore.control.certificates import CERTIFICATE_FILE, KEY_FILE, ServerCertificate, open_certificate
from dmcore.control.settings import ControlPlaneSettings, TlsSettings
from dmcore.host.clock import utc_now
from dmcore.host.errors import FileBroken, FileExposed


def settings(folder: Path, **more: object) -> ControlPlaneSettings:
    return ControlPlaneSettings.model_validate({"state_dir": folder, **more})


def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    made = open_certificate(settings(tmp_path, advertise=["control.example", "192.0.2.7", "::1"]), utc_now)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["control.example"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("::1"),
    ]  # fmt: skip
    assert certificate.not_valid_before_utc < datetime.now(UTC)
    assert made.fingerprint == fingerprint_of(made.certificate.read_text())
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert open_certificate(settings(tmp_path, advertise=["elsewhere"]), utc_now) == made


def test_of_two_that_make_it_at_once_one_is_kept(tmp_path: Path) -> None:
    found: list[ServerCertificate] = []
    barrier = threading.Barrier(2)

    def make() -> None:
        barrier.wait()
        found.append(open_certificate(settings(tmp_path), utc_now))

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.certificate.read_bytes() for each in found}) == 1
    found[0].context()


def test_one_of_the_operators_own_is_not_pinned(tmp_path: Path) -> None:
    own = open_certificate(settings(tmp_path), utc_now)
    tls = TlsSettings(certificate=own.certificate, key=own.key)
    found = open_certificate(settings(tmp_path / "other", tls=tls), utc_now)
    assert (found.fingerprint, found.pinned, own.pinned) == (own.fingerprint, False, True)
    assert not (tmp_path / "other").exists()


def test_only_tls_1_3_is_spoken(tmp_path: Path) -> None:
    context = open_certificate(settings(tmp_path), utc_now).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_it_is_an_anchor_that_clients_take(tmp_path: Path) -> None:
    made = open_certificate(settings(tmp_path), utc_now)
    assert pinned_context(made.certificate.read_text(), "here").get_ca_certs() == []  # no CA: this certificate alone


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage")


def another_kind(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("file", "damage", "problem"),
    [
        (CERTIFICATE_FILE, garbage, "not a certificate"),
        (KEY_FILE, garbage, "not a private key"),
        (KEY_FILE, another_kind, "not an elliptic curve"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, damage: Callable[[Path], None], problem: str) -> None:
    open_certificate(settings(tmp_path), utc_now)
    damage(tmp_path / file)
    with pytest.raises(FileBroken, match=problem):
        open_certificate(settings(tmp_path), utc_now)


def test_a_certificate_of_ones_own_must_be_there(tmp_path: Path) -> None:
    tls = TlsSettings(certificate=tmp_path / "none.pem", key=tmp_path / "none.key")
    with pytest.raises(FileBroken, match="no such file"):
        open_certificate(settings(tmp_path, tls=tls), utc_now)


def test_the_key_must_be_the_certificates(tmp_path: Path) -> None:
    made = open_certificate(settings(tmp_path / "a"), utc_now)
    other = open_certificate(settings(tmp_path / "b"), utc_now)
    with pytest.raises(FileBroken, match="not the key"):
        ServerCertificate(made.certificate, other.key, made.fingerprint, pinned=True).context()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    made = open_certificate(settings(tmp_path), utc_now)
    made.key.chmod(0o640)
    with pytest.raises(FileExposed):
        open_certificate(settings(tmp_path), utc_now)
