"""Reports: pages for a browser, drawn in Python, in one file each."""
