"""Run by MXNet's Python: reads what this project wrote, and writes the same records with MXNet."""

import sys
from pathlib import Path

import numpy as np
from samples import LAYOUTS, check, records

import mxnet as mx


def main(folder: Path) -> None:
    for layout in LAYOUTS:
        idx, rec = (str(folder / f"{layout}_lqface.{suffix}") for suffix in ("idx", "rec"))
        file = mx.recordio.MXIndexedRecordIO(idx, rec, "r")

        def read(key, file=file):
            header, payload = mx.recordio.unpack(file.read_idx(key))
            return np.atleast_1d(np.float32(header.label)).tolist(), payload

        check(layout, folder, list(file.keys), read)
        file.close()
    print(f"MXNet {mx.__version__} reads what lqface writes")

    for decoded in sorted(folder.glob("decoded_*.npy")):
        encoded = next(folder.glob(decoded.stem.replace("decoded", "image") + ".*")).read_bytes()
        difference = mx.image.imdecode(encoded, to_rgb=1).asnumpy().astype(int) - np.load(decoded)
        assert abs(difference).max() <= 2, (
            f"{decoded.stem}: MXNet decodes it {abs(difference).max()} levels apart"
        )
    print("MXNet decodes the images alike (at most 2 of 255 levels apart)")

    for layout in LAYOUTS:
        idx, rec = (str(folder / f"{layout}_mxnet.{suffix}") for suffix in ("idx", "rec"))
        file = mx.recordio.MXIndexedRecordIO(idx, rec, "w")
        for key, label, payload in records(layout, folder):
            file.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), payload))
        file.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
