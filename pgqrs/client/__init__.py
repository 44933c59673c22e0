"""The client API: `Admin`, submitters and handles."""
