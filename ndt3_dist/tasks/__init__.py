"""Tasks: what each asks of recordings, models and scores. Each folder can be deleted by itself."""
