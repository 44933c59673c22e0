"""The workers of a schema, and the facts that tell why a workflow is not running."""
