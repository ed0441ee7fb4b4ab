"""Ways to start the runs of a sweep, on this machine or by Slurm."""
