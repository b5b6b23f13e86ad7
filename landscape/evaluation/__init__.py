"""A family of points, coordinates and an objective make a result."""
