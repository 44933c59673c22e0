"""What the tests share: waiting, connections, processes, workflows, records, and servers that fail as they are told to."""
