"""The numbers of the sealed format, version 1 (docs/format.md), and nothing else.

They exist once: `setup.py` runs this file and writes them to `ext/format.h` for the native core. It imports
nothing.
"""

# Frame header (docs/format.md section 5)
FRAME_MAGIC = 0xD15C
FRAME_VERSION = 1
FRAME_HEADER_BYTES = 40

# Frame types
TYPE_OPEN = 0
TYPE_DATA = 1
TYPE_ZERO = 2
TYPE_FINAL = 3

# Codecs
CODEC_RAW = 0
CODEC_LZ4 = 1
CODEC_ZSTD = 2

# Sizes, in bytes
STREAM_HEADER_BYTES = 176
STREAM_ID_BYTES = 32
KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
FINAL_BYTES = 32

# A batch: what one ACK covers, one native call and one log record. Bounds the memory of every stage.
MAX_BATCH_DATA_BYTES = 8 << 20
MAX_BATCH_FRAMES = 2048

# A stream (SP 800-38D section 8, and the margin of TLS 1.3 records)
MAX_STREAM_DATA_BYTES = 1 << 38
MAX_STREAM_FRAMES = 1 << 32
SEQ_BATCH_SHIFT = 16

# A compressed block must be shorter than raw - raw // COMPRESS_GAIN, else it travels raw.
COMPRESS_GAIN = 16
