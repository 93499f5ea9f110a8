"""Training stages: losses that take the place of a model's own in a run that goes on from another one."""
