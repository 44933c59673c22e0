"""Messages, events and updates of workflows: their topics, their sending and their replies."""
