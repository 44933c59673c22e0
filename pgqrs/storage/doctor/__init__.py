"""The look at the server and the tables for conditions that slow pgqrs down."""
