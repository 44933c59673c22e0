"""What goes on in the background of an `Admin` and of a `Worker`: one duty a file."""
