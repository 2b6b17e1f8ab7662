import re

from dmcore.native.libraries import versions


def test_versions_are_those_of_the_linked_libraries() -> None:
    found = versions()
    assert set(found) == {"liblz4", "libzstd", "libcrypto"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["liblz4"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["libzstd"])
    assert found["libcrypto"].startswith("OpenSSL 3")
