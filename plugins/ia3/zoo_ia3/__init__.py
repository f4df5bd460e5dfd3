"""(IA)³ (arXiv 2205.05638): a learned vector scales what a layer puts out, or, in a feedforward layer, takes in."""

import zoo

from .config import IA3 as IA3

zoo.hooks(inject_adapter=".update", adapter_config=".config")
