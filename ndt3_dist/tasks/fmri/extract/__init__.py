"""Features of films, of their sound and of what is said, by models of Hugging Face."""
