"""The geometry of parameter space: families of points, planes, directions, symmetry, groups of parameters."""
