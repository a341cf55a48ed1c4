"""How much of a matrix a program of each GPU kernel holds, by kind of card.

Tuning at run time would call a kernel several times, on memory that it overwrites, and makes results depend
on what was fastest that day. So the sizes stand here; `python benchmarks/kernel_tiles.py` measures others on
scratch tensors.
"""

from dataclasses import dataclass, replace

import torch

SHARED_KIB = {(9, 0): 227, (8, 0): 163, (7, 5): 64}  # memory on the chip for a program
SHARED_KIB_ELSEWHERE = 99
TILE = 32_768  # numbers of float32 in the widest tile of a program, half of its registers


@dataclass(frozen=True)
class Tiles:
    """Sizes are powers of two, from 16.

    Attributes:
        classes: of a program; all of D is on the chip for them, so larger embeddings have smaller tiles.
        samples: that a program takes at a time.
        warps, stages: of the kernels with `classes` and `samples`.
        rows, dims: the tile of the embeddings' gradient that a program sums over its classes.
        row_warps, row_stages: of that kernel.
    """

    classes: int = 64
    samples: int = 64
    warps: int = 8
    stages: int = 2
    rows: int = 128
    dims: int = 128
    row_warps: int = 8
    row_stages: int = 3


# (compute capability, bytes of a number in a product) -> sizes. Chosen so that a program fits on the chip by
# what the compiler reports: SHARED_KIB, 255 registers a thread. Not timed yet.
TILES = {
    (9, 0, 2): Tiles(),
    (9, 0, 4): Tiles(classes=32, samples=32, rows=64, row_stages=2),
    (8, 0, 2): Tiles(samples=32, row_stages=2),
    (8, 0, 4): Tiles(classes=32, samples=16, stages=1, rows=64, row_stages=2),
}
SMALL = {
    2: Tiles(classes=32, samples=32, stages=1, rows=64, row_stages=2),
    4: Tiles(classes=16, samples=16, stages=1, rows=32, dims=64, row_stages=1),
}


def tiles_for(device: torch.device, dtype: torch.dtype, embedding_size: int) -> Tiles:
    """The sizes for this card; on a CPU, in Triton's interpreter, small ones."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else ()
    return tiles_on(capability, dtype, embedding_size)


def tiles_on(capability: tuple[int, ...], dtype: torch.dtype, embedding_size: int) -> Tiles:
    """The sizes for cards of a compute capability, (9, 0), say.

    Raises:
        ValueError: the embeddings are too large for the card.
    """
    tiles = TILES.get((*capability, dtype.itemsize), SMALL[dtype.itemsize])
    widest = max(TILE // padded(embedding_size), 16)
    tiles = replace(tiles, classes=min(tiles.classes, widest), dims=min(tiles.dims, padded(embedding_size)))
    room = (
        SHARED_KIB.get(capability, SHARED_KIB_ELSEWHERE) * 1024 // (padded(embedding_size) * dtype.itemsize)
    )
    while tiles.classes + tiles.samples * tiles.stages > room:
        if tiles.stages > 1:
            tiles = replace(tiles, stages=tiles.stages - 1)
        elif max(tiles.samples, tiles.classes) > 16:
            larger = "samples" if tiles.samples >= tiles.classes else "classes"
            tiles = replace(tiles, **{larger: getattr(tiles, larger) // 2})
        else:
            raise ValueError(
                f"embedding_size={embedding_size} in {dtype} does not fit on this card's chip: take "
                "kernels=False or half precision"
            )
    return tiles


def padded(embedding_size: int) -> int:
    """The power of two that holds an embedding; a matrix product on a GPU has at least 16."""
    return max(1 << (embedding_size - 1).bit_length(), 16)
