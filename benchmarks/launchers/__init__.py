"""Where the cells of a sweep run: processes of this machine, a Ray cluster, or Slurm (docs/scaling.md)."""
