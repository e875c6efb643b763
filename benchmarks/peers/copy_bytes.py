"""The least that any composer must do: read every input byte, write as many as the result has, sync.

python copy_bytes.py OUTPUT SIZE INPUT...
"""

import os
import sys

PIECE = 1 << 20


def main(output: str, size: int, inputs: list[str]) -> None:
    buffer = bytearray(PIECE)
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    left = size
    for path in inputs:
        source = os.open(path, os.O_RDONLY)
        while count := os.readv(source, [buffer]):
            left -= os.write(target, memoryview(buffer)[: min(count, left)])
        os.close(source)
    while left:
        left -= os.write(target, memoryview(buffer)[: min(PIECE, left)])
    os.fsync(target)
    os.close(target)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
