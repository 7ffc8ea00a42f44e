"""OMGD: teachers that learn in the run, wider and deeper than the student."""
