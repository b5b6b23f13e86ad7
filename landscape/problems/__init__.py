"""What a problem is, where problems are found, and those that ship with the package."""
