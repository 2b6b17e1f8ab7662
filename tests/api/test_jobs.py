import json
from uuid import uuid4

import pytest
from pydantic import ValidationError

from dmcore.api.jobs import Codec, Job
from dmcore.model.enums import Rung

JOB = {
    "job": str(uuid4()),
    "ticket": "aaa.bbb.ccc",
    "plan": str(uuid4()),
    "group": str(uuid4()),
    "cycle": str(uuid4()),
    "epoch": 1,
    "connector": "ab" * 32,
    "machines": ["web 1"],
    "source": "main",
    "target": "shadows",
}


def test_there_and_back() -> None:
    job = Job.model_validate(JOB)
    assert job.codec is None
    assert job.resync is None
    assert Job.model_validate_json(job.model_dump_json()) == job
    assert ".bbb." not in repr(job)


def test_wishes() -> None:
    job = Job.model_validate_json(json.dumps({**JOB, "codec": "zstd", "resync": "compare"}))
    assert (job.codec, job.resync) == (Codec.ZSTD, Rung.COMPARE)


@pytest.mark.parametrize(
    "change",
    [
        {"machines": []},
        {"machines": ["../../etc"]},
        {"machines": ["a\nb"]},
        {"machines": ["a"] * 257},
        {"source": "/dev/sda"},
        {"source": "Main"},
        {"target": ""},
        {"target": "a" * 64},
        {"connector": "AB" * 32},
        {"ticket": "a b"},
        {"epoch": 0},
        {"codec": "gzip"},
        {"command": "rm"},
    ],
    ids=lambda change: str(change)[:40],
)
def test_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate({**JOB, **change})
