"""Make many pictures unattended: a job file, its tasks, and workers that share them."""
