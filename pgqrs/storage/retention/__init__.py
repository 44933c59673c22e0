"""The deletion of ended workflows: by their age, by request, with or without the archive."""
