"""Write Outlook .msg files (MS-CFB, MS-OXMSG), which no library with a free licence writes."""

import struct
from collections.abc import Mapping, Sequence

_Path = tuple[str, ...]
_Properties = Mapping[int, "str | bytes | int | float | _Properties"]
_SECTOR, _CUTOFF = 512, 4096
_END, _FREE, _FAT = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD
_TEXT, _BINARY, _TIME, _NUMBER, _OBJECT = 0x001F, 0x0102, 0x0040, 0x0003, 0x000D
_AS_FILETIME = 116_444_736_000_000_000


def outlook_message(
    properties: _Properties, recipients: tuple[str, ...] = (), attachments: Sequence[_Properties] = ()
) -> bytes:
    """Return a .msg file. A property is a text, bytes, a number, a time (float, seconds since 1970), or a message."""
    counts = struct.pack("<8x4I8x", 0, 0, len(recipients), len(attachments))
    streams = _storage((), properties, counts)
    for number, address in enumerate(recipients):
        streams |= _storage((f"__recip_version1.0_#{number:08X}",), {0x39FE: address}, bytes(8))
    for number, each in enumerate(attachments):
        streams |= _storage((f"__attach_version1.0_#{number:08X}",), each, bytes(8))
    return compound(streams)


def _storage(path: _Path, properties: _Properties, head: bytes) -> dict[_Path, bytes]:
    streams, entries = dict[_Path, bytes](), head
    for number, value in properties.items():
        if isinstance(value, float):
            entries += struct.pack("<HHIQ", _TIME, number, 6, int(value * 10**7) + _AS_FILETIME)
        elif isinstance(value, int):
            entries += struct.pack("<HHIII", _NUMBER, number, 6, value, 0)
        elif isinstance(value, Mapping):
            entries += struct.pack("<HHIII", _OBJECT, number, 6, 0xFFFFFFFF, 1)
            streams |= _storage((*path, f"__substg1.0_{number:04X}{_OBJECT:04X}"), value, bytes(24))
        else:
            kind, data = (_TEXT, value.encode("utf-16-le")) if isinstance(value, str) else (_BINARY, value)
            entries += struct.pack("<HHIII", kind, number, 6, len(data) + 2 * (kind == _TEXT), 0)
            streams[(*path, f"__substg1.0_{number:04X}{kind:04X}")] = data
    return {**streams, (*path, "__properties_version1.0"): entries}


def compound(streams: Mapping[_Path, bytes]) -> bytes:
    """Return a compound file (MS-CFB). Streams of less than 4,096 bytes are in the stream of the root."""
    storages = dict.fromkeys(path[:length] for path in streams for length in range(1, len(path)))
    paths: list[_Path] = [(), *storages, *streams]
    mini, large = _Sectors(64), _Sectors(_SECTOR)
    starts = {path: (large if len(data) >= _CUTOFF else mini).add(data) for path, data in streams.items()}
    starts[()] = large.add(mini.content)
    sizes = {path: len(data) for path, data in streams.items()} | {(): len(mini.content)}
    directory = large.add(b"".join(_entry(path, paths, starts.get(path, 0), sizes.get(path)) for path in paths))
    mini_table = large.add(_table(mini.chains))
    tables = 1
    while tables * (_SECTOR // 4) < len(large.chains) + tables:
        tables += 1
    first = len(large.chains)
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack("<9I", 0, tables, directory, 0, _CUTOFF, mini_table, -(-len(mini.chains) // 128), _END, 0)
    header += struct.pack("<109I", *(first + n if n < tables else _FREE for n in range(109)))
    return header + large.content + _table([*large.chains, *[_FAT] * tables])


class _Sectors:
    def __init__(self, size: int) -> None:
        self.size, self.content, self.chains = size, b"", list[int]()

    def add(self, data: bytes) -> int:
        """Append a stream, and return its first sector."""
        first, count = len(self.chains), max(1, -(-len(data) // self.size))
        self.chains += [*range(first + 1, first + count), _END]
        self.content += data.ljust(count * self.size, b"\0")
        return first


def _table(chains: list[int]) -> bytes:
    return b"".join(struct.pack("<I", each) for each in chains).ljust(-(-len(chains) // 128) * _SECTOR, b"\xff")


def _entry(path: _Path, paths: list[_Path], start: int, size: int | None) -> bytes:
    """Return a directory entry. The children of a storage are a chain of right siblings."""
    place = paths.index(path)
    after = [n for n, each in enumerate(paths) if each and each[:-1] == path[:-1] and n > place] if path else []
    children = [n for n, each in enumerate(paths) if each and each[:-1] == path]
    name = (path[-1] if path else "Root Entry").encode("utf-16-le") + b"\0\0"
    kind = 5 if not path else 1 if size is None else 2
    links = (_FREE, after[0] if after else _FREE, children[0] if children else _FREE)
    return name.ljust(64, b"\0") + struct.pack("<HBB3I36xIQ", len(name), kind, 1, *links, start, size or 0)
