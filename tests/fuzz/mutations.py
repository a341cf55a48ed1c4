"""How bytes and text are changed: what breaks in storage, and numbers and names that readers trip over."""

import random

NUMBERS = (0, 1, 1 << 16, 1 << 29, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
TOKENS = (
    *(
        "",
        " ",
        "\t",
        ",",
        "\n",
        "\r",
        "\0",
        "\x1b[31m",
        "-1",
        "0",
        "9" * 19,
        "9" * 5000,
        "1e400",
        "nan",
        "inf",
    ),
    *(
        "-0",
        "0x10",
        "1_0",
        "1.5",
        "2147483648",
        "１２",
        "é",
        "\ufeff",
        "\u202e",
        "\ud800",
        '"',
        "'",
        "\\",
        "%s",
        "{0}",
    ),
    *("../../etc/passwd", "/etc/passwd", "True", "none", "[" * 2000, "{a:" * 600, "(" * 500 + ")" * 500),
    *("__class__", "lambda: 0", "__import__('os').system('id')"),
)


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to six changes: a bit, a byte, a number, a cut, bytes that are gone, new, copied or doubled."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at, length = chance.randrange(len(found) or 1), chance.randrange(1, 17)
        match chance.randrange(8) if found else 5:
            case 0:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                found[at] = chance.randrange(256)
            case 2:
                found[at : at + 4] = chance.choice(NUMBERS).to_bytes(4, chance.choice(("little", "big")))
            case 3:
                del found[at:]
            case 4:
                del found[at : at + length]
            case 5:
                found[at:at] = chance.randbytes(length)
            case 6:
                to = chance.randrange(len(found))
                found[to : to + length] = found[at : at + length]
            case 7:
                found[at:at] = found[at : at + 2 * length]
    return bytes(found)


def changed_text(text: str, chance: random.Random) -> str:
    """One to three changes of lines, fields and characters."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        lines = text.split("\n")
        row = chance.randrange(len(lines))
        at = chance.randrange(len(lines[row]) + 1)
        match chance.randrange(8):
            case 0:
                lines[row] = chance.choice(TOKENS)
            case 1:
                lines.insert(row, chance.choice(lines))
            case 2:
                del lines[row]
            case 3:
                lines[row] = lines[row][:at] + chance.choice(TOKENS) + lines[row][at + chance.randrange(2) :]
            case 4:
                other = chance.randrange(len(lines))
                lines[row], lines[other] = lines[other], lines[row]
            case 5:
                lines[row] = lines[row][:at]
                del lines[row + 1 :]
            case 6:
                separator = chance.choice("\t ,=:.")
                fields = lines[row].split(separator)
                fields[chance.randrange(len(fields))] = chance.choice(TOKENS)
                lines[row] = separator.join(fields)
            case 7:
                character = chr(chance.choice((chance.randrange(128), chance.randrange(0x800))))
                lines[row] = lines[row][:at] + character + lines[row][at + 1 :]
        text = "\n".join(lines)
    return text


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
