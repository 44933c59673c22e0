"""The schedules of an application: their declaration, and the handle by which they are controlled."""
