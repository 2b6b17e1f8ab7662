import json
from uuid import UUID

import pytest
from pydantic import ValidationError

from dmcore.keys.provider import WrappedKeys
from dmcore.model.ids import PlanId

KEYS = WrappedKeys(
    plan=PlanId(UUID(int=1)), dek_version=1, kek_fingerprint="00" * 32, dek=b"\xff\x00", digest_root=b"a"
)


def test_json_either_way() -> None:
    text = KEYS.model_dump_json()
    assert json.loads(text)["dek"] == "/wA="
    assert WrappedKeys.model_validate_json(text) == KEYS
    assert WrappedKeys.model_validate(json.loads(text)) == KEYS


@pytest.mark.parametrize(
    "change",
    [
        {"dek_version": 0},
        {"dek_version": 1 << 32},
        {"dek": b""},
        {"dek": b"x" * 4097},
        {"dek": "not base64!"},
        {"extra": 1},
        {"kek_fingerprint": ""},
    ],
    ids=str,
)
def test_what_a_peer_may_not_send(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WrappedKeys.model_validate({**KEYS.model_dump(), **change})
