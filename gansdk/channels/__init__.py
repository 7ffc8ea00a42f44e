"""Channel groups: found by tracing, used for costs, carving and weight sharing."""
