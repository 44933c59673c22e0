"""Schedules in the tables: their changes by an application, and the start of their workflows by workers."""
