"""Pickles of lists, bytes and arrays of plain numbers, and of nothing else.

A pickle is a program, and these files are downloaded, so they are read by an unpickler that knows a short
list of names. NumPy's own constructors are not behind them: given a dtype and a buffer of the file's choice,
they follow any pointer (`numpy.ndarray(1, "O", b"8 bytes.")` crashes the interpreter). Stand-ins build arrays
of booleans and integers, and nothing else.

Before anything is run, the program is read: it has at most one instruction for MIN_BYTES of the file, and
asks for no more memory than that allows. What the stand-ins make is counted, and is at most MAX_COPIES times
as large as the file.
"""

import io
import pickle
import pickletools

import numpy as np

MIN_BYTES, FREE = 4, 20_000  # bytes of the file for an instruction, beyond the first FREE
MAX_COPIES = 4  # of a byte of the file: text, the bytes that it encodes, an array of them
LATIN_1 = ("latin1", "latin-1", "iso-8859-1")


class PlainDtype:
    """Stands in for `numpy.dtype`: booleans and integers."""

    allowed = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

    def __init__(self, name: str | bytes, *flags):
        name = name.decode() if isinstance(name, bytes) else name
        if name not in self.allowed:
            raise ValueError(f"it holds an array of dtype {name!r}, allowed are {', '.join(self.allowed)}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state):
        order = state[1]
        self.dtype = self.dtype.newbyteorder(order.decode() if isinstance(order, bytes) else order)


class PlainArray(np.ndarray):
    """An array whose pickled state may only bring a `PlainDtype`."""

    def __setstate__(self, state):
        _, shape, plain, is_fortran, data = state
        if not isinstance(data, bytes):  # of a number, bytes() would make as many zeros
            raise ValueError(f"it makes an array of a {type(data).__name__}")
        super().__setstate__((1, shape, plain.dtype, bool(is_fortran), data))


def reconstruct(*_) -> PlainArray:
    """Stands in for NumPy's `_reconstruct`: an empty array, which the pickle then gives its state."""
    return PlainArray(0, np.uint8)


def from_buffer(data, plain: PlainDtype, shape, order, *_) -> np.ndarray:
    """Stands in for NumPy's `_frombuffer`."""
    return np.frombuffer(data, plain.dtype).reshape(shape, order=order)


def scalar(plain: PlainDtype, data: bytes) -> np.generic:
    """Stands in for NumPy's `scalar`."""
    return np.frombuffer(data, plain.dtype)[0]


ALLOWED = {("numpy", "dtype"): PlainDtype, ("numpy", "ndarray"): "only ever an argument"}
for module in ("numpy.core", "numpy._core"):
    ALLOWED |= {
        (f"{module}.multiarray", "_reconstruct"): reconstruct,
        (f"{module}.multiarray", "scalar"): scalar,
        (f"{module}.numeric", "_frombuffer"): from_buffer,
    }


class PlainUnpickler(pickle.Unpickler):
    """Loads containers, bytes and plain arrays; any other name is an error, before anything is imported."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="bytes")  # bytes: what Python 2 called str
        self.room = FREE + MAX_COPIES * len(data)
        self.allowed = ALLOWED | {("_codecs", "encode"): self.encode}
        for module in ("__builtin__", "builtins"):
            self.allowed |= {(module, kind.__name__): self.maker(kind) for kind in (bytes, bytearray)}

    def find_class(self, module: str, name: str):
        if (module, name) not in self.allowed:
            raise ValueError(
                f"it asks for {module}.{name}, which nothing but a malicious or foreign file needs"
            )
        return self.allowed[module, name]

    def count(self, made: bytes | bytearray) -> bytes | bytearray:
        """What a stand-in has made, if there is room for it."""
        self.room -= len(made)
        if self.room < 0:
            raise ValueError("it makes more of its bytes than a set needs")
        return made

    def maker(self, kind: type):
        """Stands in for `bytes` and `bytearray`, which make of a number as many zeros."""

        def make(data: str | bytes | bytearray = b"", *encoding):
            if isinstance(data, str):
                return self.count(kind(self.encode(data, *encoding)))
            if not isinstance(data, bytes | bytearray):
                raise ValueError(f"it makes {kind.__name__} of a {type(data).__name__}")
            return self.count(kind(data))

        return make

    def encode(self, text: str, encoding: str | bytes) -> bytes:
        """Stands in for `_codecs.encode`, with which old protocols write bytes as text."""
        encoding = encoding.decode() if isinstance(encoding, bytes) else encoding
        if encoding not in LATIN_1:
            raise ValueError(f"it encodes text as {encoding!r}, allowed is 'latin1'")
        return self.count(text.encode("latin-1"))


def load(data: bytes):
    """What a pickle of plain things holds.

    Raises:
        ValueError: a forbidden name, more than a file of that size can honestly hold, damage.
    """
    try:
        _check_program(data)
        return PlainUnpickler(data).load()
    except Exception as fault:  # a damaged pickle can raise anything
        raise ValueError(" ".join(str(fault).split()) or type(fault).__name__) from fault


def _check_program(data: bytes) -> None:
    """Count the instructions and look at their arguments; Python's reader would allocate what they claim."""
    most = FREE + len(data) // MIN_BYTES
    for number, (instruction, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
        if number > most:
            raise ValueError(f"it has more than {most} instructions in {len(data)} bytes")
        # A place in the memo is one more than the last; the memo is as long as the highest.
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= argument <= number:
            raise ValueError(f"its instruction {number} remembers something as number {argument}")
