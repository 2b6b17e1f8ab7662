from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.native.batches import SealedBatch

FRAME_OVERHEAD_BYTES: int

def worst_case_bytes(blocks: int, block_bytes: int, zero_runs: int = 0) -> int: ...

@final
class Sealer:
    def __new__(
        cls,
        frame_key: bytes,
        stream_id: bytes,
        digest_key: bytes,
        *,
        block_bytes: int,
        disk_bytes: int,
        codec: int,
        level: int = 1,
    ) -> Self: ...
    def wipe(self) -> None: ...
    def wipe_forked(self) -> None: ...
    def seal_control(self, frame_type: int, batch: int, plaintext: bytes, out: Buffer) -> int: ...
    def seal(
        self,
        batch: int,
        blocks: NDArray[np.int64],
        raw: Buffer,
        out: Buffer,
        *,
        verdicts: NDArray[np.uint8] | None = None,
        digests: NDArray[np.uint8] | None = None,
        zero_runs: NDArray[np.int64] | None = None,
    ) -> SealedBatch: ...
