"""The tree of RFC 6962: published roots, and proofs that verify unless one bit of anything is another."""

from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.record import merkle
from sovereign_pipeline.record.merkle import Growth, Node

# The tree that the tests of Certificate Transparency are run with: google/certificate-transparency,
# cpp/merkletree/merkle_tree_test.cc, and transparency-dev/merkle, testonly/constants.go.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LARGEST = 65


class Grown:
    """A tree of given leaves with every root that it had."""

    def __init__(self, leaves: Collection[bytes]) -> None:
        growth = Growth()
        self.nodes: dict[Node, bytes] = {}
        self.leaves = [merkle.leaf_hash(leaf) for leaf in leaves]
        self.roots = [growth.root()]
        for leaf in self.leaves:
            self.nodes.update(growth.add(leaf))
            self.roots.append(growth.root())

    def hashes(self, wanted: Collection[Node]) -> Mapping[Node, bytes]:
        return {node: self.nodes[node] for node in wanted}


TREE = Grown([bytes([number]) * (number % 7) for number in range(LARGEST)])


def test_the_published_roots_come_out() -> None:
    tree = Grown([bytes.fromhex(leaf) for leaf in LEAVES])
    assert [root.hex() for root in tree.roots] == ROOTS
    assert [merkle.root(size, tree.hashes).hex() for size in range(len(ROOTS))] == ROOTS


def test_a_tree_grows_on_from_its_peaks() -> None:
    for size in range(LARGEST):
        grown = Growth(size, [TREE.nodes[node] for node in merkle.peaks_of(size)])
        assert grown.root() == TREE.roots[size]
        assert dict(grown.add(TREE.leaves[size])).items() <= TREE.nodes.items()
        assert grown.root() == TREE.roots[size + 1]


def test_every_proof_of_every_small_tree_verifies() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, TREE.hashes)
            assert merkle.is_included(index, size, TREE.leaves[index], proof, TREE.roots[size])
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(old, size, TREE.hashes)
            assert merkle.is_consistent(old, size, TREE.roots[old], TREE.roots[size], proof)


def _flipped(data: st.DataObject, hashes: list[bytes]) -> list[bytes]:
    place = data.draw(st.integers(0, len(hashes) - 1))
    bit = data.draw(st.integers(0, 255))
    changed = bytearray(hashes[place])
    changed[bit // 8] ^= 1 << bit % 8
    return [*hashes[:place], bytes(changed), *hashes[place + 1 :]]


@given(st.data())
def test_a_flipped_bit_of_an_inclusion_does_not_verify(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, LARGEST))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, TREE.hashes)
    leaf, root, *changed = _flipped(data, [TREE.leaves[index], TREE.roots[size], *proof])
    assert not merkle.is_included(index, size, leaf, changed, root)


@given(st.data())
def test_a_flipped_bit_of_a_consistency_does_not_verify(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, LARGEST))
    old = data.draw(st.integers(1, new))
    proof = merkle.consistency_proof(old, new, TREE.hashes)
    old_root, new_root, *changed = _flipped(data, [TREE.roots[old], TREE.roots[new], *proof])
    assert not merkle.is_consistent(old, new, old_root, new_root, changed)


@given(st.data())
def test_a_proof_is_good_for_its_own_place_alone(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, LARGEST))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, TREE.hashes)
    leaf, root = TREE.leaves[index], TREE.roots[size]
    other = data.draw(st.integers(0, size - 1).filter(lambda each: each != index))
    assert not merkle.is_included(other, size, leaf, proof, root)
    assert not merkle.is_included(index, size, leaf, [*proof, root], root)
    assert not merkle.is_included(index, size, leaf, proof[:-1], root)
    old = data.draw(st.integers(1, size - 1))
    shown = merkle.consistency_proof(old, size, TREE.hashes)
    assert not merkle.is_consistent(old, size, TREE.roots[old], root, [*shown, root])
    assert not merkle.is_consistent(old, size, TREE.roots[old], root, shown[:-1])


def test_what_proves_nothing_is_refused() -> None:
    one, two = TREE.roots[1], TREE.roots[2]
    proof = merkle.consistency_proof(1, 2, TREE.hashes)
    assert not merkle.is_consistent(0, 2, merkle.EMPTY_ROOT, two, [])
    assert not merkle.is_consistent(2, 1, two, one, proof)
    assert not merkle.is_consistent(1, 2, one, two, [])
    assert not merkle.is_consistent(3, 5, TREE.roots[3], TREE.roots[5], [])
    for short in (b"", one[:31], one + b"\0"):
        assert not merkle.is_included(0, 1, short, [], short)
        assert not merkle.is_consistent(1, 1, short, short, [])
    assert not merkle.is_included(1, 1, TREE.leaves[0], [], one)
    # the proof of a larger tree, whose path goes on above the root of the smaller one
    assert not merkle.is_included(0, 1, TREE.leaves[1], merkle.inclusion_proof(1, 2, TREE.hashes), two)
    assert not merkle.is_consistent(3, 4, TREE.roots[7], TREE.roots[8], merkle.consistency_proof(7, 8, TREE.hashes))
    assert merkle.consistency_proof(0, 2, TREE.hashes) == []
    with pytest.raises(ValueError, match="no leaf 2"):
        merkle.inclusion_proof(2, 2, TREE.hashes)
    with pytest.raises(ValueError, match="has no earlier size of 3"):
        merkle.consistency_proof(3, 2, TREE.hashes)
