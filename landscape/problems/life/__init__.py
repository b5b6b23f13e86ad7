"""The default problem: networks that learn the Game of Life, or a rule like it."""

from landscape.problems.life.problem import Life

__all__ = ["Life"]
