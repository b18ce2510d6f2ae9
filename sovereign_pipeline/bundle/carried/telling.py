"""What a verified bundle holds and who vouches for it, in lines for people.

What belongs here: the words. What does not: deciding anything.
"""

from collections import Counter
from collections.abc import Iterator

from sovereign_pipeline.bundle.carried.reading import on_one_line
from sovereign_pipeline.bundle.carried.verifying import Bundle


def told(bundle: Bundle) -> Iterator[str]:
    """Lines for people, each without an end."""
    return map(on_one_line, _lines(bundle))


def _lines(bundle: Bundle) -> Iterator[str]:
    size = sum(each.size for each in bundle.files)
    yield f"verified: {len(bundle.files)} files, {size / 1e6:.1f} MB, for {bundle.platform}, made at {bundle.created}"
    yield f"  index    {bundle.index_sha256}" + (f", adds to {bundle.base}" if bundle.base else "")
    yield f"  signed   by the key {bundle.keyid} of the role bundle"
    yield f"  trusted  by root {bundle.trust_versions[0]}, targets {bundle.trust_versions[1]}"
    for (folder, origin), count in sorted(Counter((_folder(each.name), each.origin) for each in bundle.files).items()):
        yield f"  {folder}: {count} {'file' if count == 1 else 'files'}, {origin}"
    signed = Counter(each.publisher for each in bundle.files if each.publisher)
    for publisher, count in sorted(signed.items()):
        yield f"  publisher's signature over {count}: {publisher}"
    yield f"  publisher's signature over none of the other {len(bundle.files) - signed.total()}"


def _folder(name: str) -> str:
    return name.partition("/")[0]
