"""The workflow API: definitions, contexts, guards and recorded times."""
