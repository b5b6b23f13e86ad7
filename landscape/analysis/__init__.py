"""Questions about curves and runs, one file each. Those that read curves need numpy and scipy alone."""
