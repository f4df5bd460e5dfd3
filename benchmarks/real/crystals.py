"""chgnet's potential for crystals, and perturbed cells of known crystals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from bed import Bed, Inputs, frozen
from figures import Figure, mean
from torch import Tensor, nn

MOVED = 0.06  # Å: standard deviation of the atoms' displacements
STRAINED = 0.02  # standard deviation of the entries of the strain
BATCH = 4
OWN_ENERGY, OWN_FORCE = 29.0, 68.0  # meV per atom, meV/Å: errors of the version on its test set, from its file's name


class Crystal(NamedTuple):
    """A crystal: its space group, lattice constants in Å (cubic, or a and c), and atoms at fractional coordinates."""

    group: str
    lattice: tuple[float, ...]
    atoms: tuple[tuple[str, tuple[float, float, float]], ...]
    angle: float = 90.0  # degrees, between a and b


_ORIGIN, _MIDDLE, _QUARTER = (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CRYSTALS = (
    Crystal("Fm-3m", (5.64,), (("Na", _ORIGIN), ("Cl", _MIDDLE))),
    Crystal("Fm-3m", (4.21,), (("Mg", _ORIGIN), ("O", _MIDDLE))),
    Crystal("Fm-3m", (5.46,), (("Ca", _ORIGIN), ("F", _QUARTER))),
    Crystal("Fm-3m", (4.62,), (("O", _ORIGIN), ("Li", _QUARTER))),
    Crystal("F-43m", (5.65,), (("Ga", _ORIGIN), ("As", _QUARTER))),
    Crystal("F-43m", (5.41,), (("Zn", _ORIGIN), ("S", _QUARTER))),
    Crystal("Fd-3m", (5.43,), (("Si", _ORIGIN),)),
    Crystal("Pm-3m", (3.905,), (("Sr", _ORIGIN), ("Ti", _MIDDLE), ("O", (0.5, 0.5, 0.0)))),
    Crystal("Pm-3m", (4.12,), (("Cs", _ORIGIN), ("Cl", _MIDDLE))),
    Crystal("Fm-3m", (4.05,), (("Al", _ORIGIN),)),
    Crystal("Fm-3m", (3.61,), (("Cu", _ORIGIN),)),
    Crystal("P4_2/mnm", (4.59, 2.96), (("Ti", _ORIGIN), ("O", (0.305, 0.305, 0.0)))),
    Crystal("R-3m", (2.82, 14.05), (("Co", _ORIGIN), ("Li", (0.0, 0.0, 0.5)), ("O", (0.0, 0.0, 0.26))), 120.0),
    Crystal("P6_3/mmc", (3.21, 5.21), (("Mg", (1 / 3, 2 / 3, 0.25)),), 120.0),
    Crystal("P6_3mc", (3.25, 5.2), (("Zn", (1 / 3, 2 / 3, 0.0)), ("O", (1 / 3, 2 / 3, 0.382))), 120.0),
)


def build() -> nn.Module:
    """Return CHGNet 0.3.0 (arXiv 2302.14231)."""
    from chgnet.model.model import CHGNet

    return frozen(CHGNet.load(use_device="cpu", verbose=False))


def graphs(n: int, seed: int, module_cutoffs: tuple[float, float] = (6.0, 3.0)) -> list[Any]:
    """Return the crystal graphs of n perturbed cells, the crystals in turn.

    Args:
        n: how many.
        seed: of strains and displacements.
        module_cutoffs: for atoms and bonds in Å, those of the version.
    """
    from chgnet.graph import CrystalGraphConverter
    from pymatgen.core import Lattice, Structure

    converter = CrystalGraphConverter(atom_graph_cutoff=module_cutoffs[0], bond_graph_cutoff=module_cutoffs[1])
    random = np.random.default_rng(seed)
    found = []
    for k in range(n):
        crystal = CRYSTALS[k % len(CRYSTALS)]
        a, c = crystal.lattice[0], crystal.lattice[-1]
        lattice = Lattice.from_parameters(a, a, c, 90, 90, crystal.angle)
        kinds, places = zip(*crystal.atoms, strict=True)
        cell = Structure.from_spacegroup(crystal.group, lattice, kinds, places)
        strain = STRAINED * random.standard_normal((3, 3))
        matrix = cell.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2)
        places = cell.frac_coords @ matrix + MOVED * random.standard_normal((len(cell), 3))
        found.append(converter(Structure(matrix, cell.species, places, coords_are_cartesian=True)))
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
