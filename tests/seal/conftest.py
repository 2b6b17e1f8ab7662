import pytest

from tests.seal.nonces import NonceRecorder


@pytest.fixture
def nonces() -> NonceRecorder:
    return NonceRecorder()
