"""Many seeds in one loop, and grids of runs."""
