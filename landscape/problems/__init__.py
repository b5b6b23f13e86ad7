"""Problems: what one is, those that ship with the package, those made of one's own model, and where all are found."""

from landscape.problems.base import Problem
from landscape.problems.model import from_model

Problem.from_model = staticmethod(from_model)
