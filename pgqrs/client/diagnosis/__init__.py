"""The answers to an operator: why a workflow is not running, and which workers there are."""
