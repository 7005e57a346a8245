"""Programs of tasks, one file each."""
