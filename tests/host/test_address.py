import pytest

from dmcore.host.address import Address


@pytest.mark.parametrize("text", ["127.0.0.1:0", "dr.example:65535", "[::1]:7443", "[fe80::1]:1"])
def test_there_and_back(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "host", ":1", "host:", "host:65536", "::1:80", "[::1]", "a b:1", "host:1\n", "h:-1"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not host:port"):
        Address.parse(text)
