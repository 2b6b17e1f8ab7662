from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.native.batches import Patched, ZeroMode
from dmcore.native.calls import BlockIOHandler

@final
class BlockIO:
    def __new__(cls, handler: BlockIOHandler | None = None) -> Self: ...
    def append(self, fd: int, head: Buffer, body: Buffer, offset: int) -> None: ...
    def sync(self, fd: int) -> None: ...
    def patch(self, fd: int, rows: NDArray[np.int64], raw: Buffer, zero_mode: ZeroMode = ...) -> Patched: ...
