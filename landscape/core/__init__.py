"""What every room uses: errors, files, unfinished work, provenance, intervals, random numbers."""
