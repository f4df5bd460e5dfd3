"""chgnet's potential for crystals, and perturbed cells of known crystals."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from bed import Bed, Inputs, frozen
from figures import Figure, mean
from torch import Tensor, nn

MOVED = 0.06  # Å: standard deviation of the atoms' displacements
STRAINED = 0.02  # standard deviation of the entries of the strain
BATCH = 4


class Crystal(NamedTuple):
    """A crystal.

    Attributes:
        group: the number of its space group.
        lattice: its constants in Å: one of a cubic lattice, or a and c.
        atoms: the atoms that are not each other's images, at fractional coordinates.
        angle: between a and b, in degrees.
    """

    group: int
    lattice: tuple[float, ...]
    atoms: tuple[tuple[str, tuple[float, float, float]], ...]
    angle: float = 90.0


_ORIGIN, _MIDDLE, _QUARTER = (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CRYSTALS = (
    Crystal(225, (5.64,), (("Na", _ORIGIN), ("Cl", _MIDDLE))),
    Crystal(225, (4.21,), (("Mg", _ORIGIN), ("O", _MIDDLE))),
    Crystal(225, (5.46,), (("Ca", _ORIGIN), ("F", _QUARTER))),
    Crystal(225, (4.62,), (("O", _ORIGIN), ("Li", _QUARTER))),
    Crystal(216, (5.65,), (("Ga", _ORIGIN), ("As", _QUARTER))),
    Crystal(216, (5.41,), (("Zn", _ORIGIN), ("S", _QUARTER))),
    Crystal(227, (5.43,), (("Si", _ORIGIN),)),
    Crystal(221, (3.905,), (("Sr", _ORIGIN), ("Ti", _MIDDLE), ("O", (0.5, 0.5, 0.0)))),
    Crystal(221, (4.12,), (("Cs", _ORIGIN), ("Cl", _MIDDLE))),
    Crystal(225, (4.05,), (("Al", _ORIGIN),)),
    Crystal(225, (3.61,), (("Cu", _ORIGIN),)),
    Crystal(136, (4.59, 2.96), (("Ti", _ORIGIN), ("O", (0.305, 0.305, 0.0)))),
    Crystal(166, (2.82, 14.05), (("Co", _ORIGIN), ("Li", (0.0, 0.0, 0.5)), ("O", (0.0, 0.0, 0.26))), 120.0),
    Crystal(194, (3.21, 5.21), (("Mg", (1 / 3, 2 / 3, 0.25)),), 120.0),
    Crystal(186, (3.25, 5.2), (("Zn", (1 / 3, 2 / 3, 0.0)), ("O", (1 / 3, 2 / 3, 0.382))), 120.0),
)


def build() -> nn.Module:
    """Return CHGNet 0.3.0 (arXiv 2302.14231)."""
    from chgnet.model.model import CHGNet

    with redirect_stdout(sys.stderr):  # where its greeting is not taken for a result
        return frozen(CHGNet.load(use_device="cpu", verbose=False))


@cache
def cell(crystal: Crystal) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return a crystal's cell: the atoms' kinds, places (atoms, 3) and the lattice's vectors (3, 3), in Å."""
    from ase.spacegroup import crystal as built

    a, c = crystal.lattice[0], crystal.lattice[-1]
    kinds, places = zip(*crystal.atoms, strict=True)
    found = built(kinds, places, spacegroup=crystal.group, cellpar=[a, a, c, 90, 90, crystal.angle])
    return found.get_chemical_symbols(), found.get_positions(), np.asarray(found.cell)


def graphs(n: int, seed: int) -> list[Any]:
    """Return the crystal graphs of n perturbed cells, the crystals in turn.

    Args:
        n: how many.
        seed: of strains and displacements.
    """
    from chgnet.graph import CrystalGraphConverter
    from pymatgen.core import Structure

    converter = CrystalGraphConverter(atom_graph_cutoff=6, bond_graph_cutoff=3)  # Å, those of the version
    random = np.random.default_rng(seed)
    found = []
    for k in range(n):
        kinds, places, lattice = cell(CRYSTALS[k % len(CRYSTALS)])
        strain = STRAINED * random.standard_normal((3, 3))
        stretch = np.eye(3) + (strain + strain.T) / 2
        moved = places @ stretch + MOVED * random.standard_normal(places.shape)
        found.append(converter(Structure(lattice @ stretch, kinds, moved, coords_are_cartesian=True)))
    return found


def inputs(n: int, seed: int) -> Inputs:
    """Return n cells, whose energies and forces are asked."""
    found = graphs(n, seed)
    return Inputs([{"graphs": found[k : k + BATCH], "task": "ef"} for k in range(0, n, BATCH)])


def calibration(n: int, seed: int) -> list[dict[str, Any]]:
    """Return n cells with other strains and displacements; energies alone, so that no gradient is needed."""
    found = graphs(n, seed + 1_000_000)
    return [{"graphs": found[k : k + BATCH], "task": "e"} for k in range(0, n, BATCH)]


def energies(found: list[dict[str, Any]]) -> Tensor:
    """Return energies (n) in eV per atom."""
    return torch.cat([one["e"] for one in found])


def figure(found: list[dict[str, Any]], truth: None) -> dict[str, Figure]:
    """Return nothing: no energies of these cells are known here, chgnet's own stand for them."""
    return {}


def agreement(reference: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, Figure]:
    """Return mean absolute differences: of energies in meV per atom, of forces in meV/Å, for each cell."""
    wanted = [one for batch in reference for one in batch["f"]]
    got = [one for batch in found for one in batch["f"]]
    forces = [(a - b).abs().mean() for a, b in zip(wanted, got, strict=True)]
    return {
        "energy meV/atom": mean((energies(reference) - energies(found)).abs()).scaled(1000),
        "force meV/Å": mean(torch.stack(forces)).scaled(1000),
    }


BEDS = (Bed("chgnet", "BSD-3-Clause", ("chgnet",), build, inputs, calibration, figure, agreement),)
