"""The retention of ended workflows, their purge, their archive and their documents, for applications."""
