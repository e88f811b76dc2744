"""Reports of runs as HTML pages that need no network."""
