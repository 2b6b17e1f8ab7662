"""A nonce can never meet two plaintexts: storms of resumes, failures in the midst of batches, cloned senders."""

import os
import random

import pytest

from dmcore.native.errors import SealFailed
from dmcore.seal.errors import StreamEnded
from dmcore.seal.stream import Codec, StreamWriter
from tests.seal.nonces import NonceRecorder
from tests.seal.streams import BLOCK, DEK, DIGEST_KEY, content, control, extents, ids, seal, stream_header, text

BLOCKS = 64


def attempt(nonces: NonceRecorder, chance: random.Random, todo: list[int]) -> list[int]:
    """One stream for the blocks that are not durable; gives back those that still are not when it breaks."""
    writer = nonces.writer(stream_header(), DEK, DIGEST_KEY, chance.choice(list(Codec)))
    writer.open()
    durable: list[int] = []
    for first in range(0, len(todo), 4):
        blocks = todo[first : first + 4]
        # What is read again may have been read, split or compressed otherwise before: the same seq, other plaintext.
        raw = b"".join(chance.choice((content, text))(block + chance.randrange(99)) for block in blocks)
        what = chance.random()
        if what < 0.2:  # the batch fails when some of its frames are sealed already
            with pytest.raises(SealFailed):
                writer.seal(ids(*blocks), raw, 8 * BLOCK, zero_runs=extents((1, 1)))
            with pytest.raises(StreamEnded, match="sealing a batch failed"):
                writer.seal(ids(*blocks), raw, 8 * BLOCK)
            break
        writer.seal(ids(*blocks), raw, 8 * BLOCK)
        if what < 0.4:  # sealed, and the connection breaks before it is sent, or before its ACK
            break
        durable += blocks
    else:
        writer.final()
        with pytest.raises(StreamEnded):
            writer.final()
    return [block for block in todo if block not in durable]


@pytest.mark.parametrize("seed", range(8))
def test_no_pair_repeats_over_a_storm_of_resumes(nonces: NonceRecorder, seed: int) -> None:
    chance = random.Random(seed)
    attempts = 0
    for _ in range(20):
        todo = list(range(BLOCKS))
        while todo:
            todo = attempt(nonces, chance, todo)
            attempts += 1
    assert attempts > 40
    assert nonces.frames > 20 * BLOCKS


def test_two_senders_of_one_memory_image_draw_two_salts(nonces: NonceRecorder) -> None:
    """A cloned appliance: same header, same DEK, same blocks, at once."""
    twins = [nonces.writer(stream_header(), DEK, DIGEST_KEY) for _ in range(2)]
    assert twins[0].header.salt != twins[1].header.salt
    for number in range(3):
        for twin in twins:
            twin.seal(ids(number), content(number), 2 * BLOCK) if number else twin.open()
    assert nonces.frames == 6


def test_the_recorder_sees_a_salt_that_comes_twice(nonces: NonceRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    nonces.writer(stream_header(), DEK, DIGEST_KEY).open()
    with pytest.raises(AssertionError, match="nonce 0 met two plaintexts"):
        nonces.writer(stream_header(), DEK, DIGEST_KEY).open()


def test_the_recorder_sees_the_frames_of_a_batch_that_failed(nonces: NonceRecorder) -> None:
    writer = nonces.writer(stream_header(), DEK, DIGEST_KEY, Codec.NONE)
    writer.open()
    with pytest.raises(SealFailed):
        writer.seal(ids(0, 1), content(0) + content(1), 4 * BLOCK, zero_runs=extents((1, 1)))
    assert nonces.frames == 3


def test_writers_made_otherwise_can_be_recorded_too(nonces: NonceRecorder) -> None:
    writer = StreamWriter(stream_header(), DEK, DIGEST_KEY)
    key = writer.header.frame_key(DEK)
    for data in (control(writer), seal(writer, {1: text(1)}), control(writer, final=True)):
        nonces.saw(key, data)
    assert nonces.frames == 3
