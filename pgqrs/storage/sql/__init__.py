"""The vocabulary of the statements: expressions, tokens, addresses of messages, and channels of notifications."""
