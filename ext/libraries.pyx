"""Which libraries the core is linked to, as they say themselves at run time."""

from libcrypto cimport OPENSSL_VERSION, OpenSSL_version
from liblz4 cimport LZ4_versionString
from libzstd cimport ZSTD_versionString


def versions() -> dict[str, str]:
    """Library name to its own version string."""
    return {
        "liblz4": LZ4_versionString().decode(),
        "libzstd": ZSTD_versionString().decode(),
        "libcrypto": OpenSSL_version(OPENSSL_VERSION).decode(),
    }
