"""The recorded steps of a run, and the rules by which they answer its calls."""
