"""Reports: JSON and HTML of a run, its curves and its images."""
