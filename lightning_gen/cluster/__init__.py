"""What a process must know of the cluster it runs on: being told to stop, its Slurm job, what the ranks agree on."""
