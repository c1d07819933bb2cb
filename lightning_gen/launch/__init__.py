"""Jobs on a Slurm cluster: what they need, the script of each from its template, and `lightning-gen launch`."""
