"""`Admin.doctor`: findings about the server and the tables, each with what to do."""
