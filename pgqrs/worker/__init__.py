"""The services of a worker: claiming, running, maintenance and signals of the operating system."""
